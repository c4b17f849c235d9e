"""Install this checkout into the virtual environment whose Python runs this: `install.py EXTRA,EXTRA`.

uv takes a few seconds where pip takes half a minute. pip installs it, since only pip is there, and does the rest too
where uv cannot: it knows ways to a package index that uv does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llmprov.depot.pip_config import PipConfig  # noqa: E402 - of the checkout, with nothing installed yet

WANTED = ["--quiet", "--constraint", str(ROOT / "constraints.txt")]
# Python compiles what it imports, when it first does: compiling all of it would take as long as installing it.
PIP = [sys.executable, "-m", "pip", "install", "--no-compile", *WANTED]
UV = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable, *WANTED]


def main() -> int:
    """Install; the exit code is that of pip where uv could not."""
    checkout = ["--editable", f"{ROOT}[{sys.argv[1]}]"]
    subprocess.run([*PIP, "uv"], check=True)
    variables = {**os.environ, "UV_SYSTEM_CERTS": "1", **PipConfig.of_this_machine().as_uv_environment()}
    if subprocess.run([*UV, *checkout], check=False, env=variables).returncode == 0:
        return 0
    sys.stderr.write("make: uv could not install it, so pip does\n")
    return subprocess.run([*PIP, *checkout], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())

"""One host, step by step: name, TCP, banner, host key, login, shell, sudo, Python; each with its time and its cause."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko

from llmprov.check import keys
from llmprov.check.steps import Stop, Trail
from llmprov.check.target import Target
from llmprov.model.reach import Reach, StepStatus

# paramiko tells of every connection that fails; so do the steps, in better words.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

#: A word that a shell must echo alone: whatever else it prints, its profile did.
WORD = "llmprov-check"

#: Connections to one sshd that have not logged in yet; it drops some from the tenth on (MaxStartups 10:30:100).
KNOCKING = 6

#: How long a command on a host may take, in seconds: sudo with a broken name service takes its time.
COMMAND_S = 30.0

#: Exit code and what it printed to both streams.
Answer = tuple[int, str, str]
Run = Callable[[str, str], Answer]


@functools.cache
def _door(place: str) -> threading.Semaphore:
    return threading.Semaphore(KNOCKING)


def door(target: Target) -> threading.Semaphore:
    """A turn at the sshd that this target is reached by: its own, or that of the host it is behind."""
    jump = target.first("proxyjump", "none")
    return _door(f"{target.first('hostname', target.alias)}:{target.port}" if jump == "none" else jump)


def walk(target: Target) -> Reach:
    """Go as far towards a host as it lets us."""
    trail = Trail()
    transport: paramiko.Transport | None = None
    try:
        with door(target):
            transport = _connect(target, trail)
            _login(target, transport, trail)
        commands(target, trail, _runner(transport))
    except Stop:
        pass
    finally:
        if transport is not None:
            transport.close()
    return Reach(host=target.name, address=target.address, steps=trail.steps)


# -- the connection ----------------------------------------------------------------------------------------------


def _connect(target: Target, trail: Trail) -> paramiko.Transport:
    if target.proxy:
        trail.skip("dns", "by another host or command")
        with trail.step("tcp"):
            sock: socket.socket | paramiko.ProxyCommand = paramiko.ProxyCommand(target.proxy)
            trail.note = f"by `{target.proxy}`"
    else:
        sock = _tcp(target, trail)
    transport = paramiko.Transport(sock)
    try:
        _greet(target, transport, trail)
    except BaseException:
        transport.close()
        raise
    return transport


def _tcp(target: Target, trail: Trail) -> socket.socket:
    host = target.first("hostname", target.alias)
    with trail.step("dns"):
        try:
            found = socket.getaddrinfo(host, target.port, type=socket.SOCK_STREAM)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Stop(f"{host} has no address: {reason}", "correct ansible_host, or the name service") from None
        trail.note = str(found[0][4][0])
    with trail.step("tcp"):
        try:
            return socket.create_connection((host, target.port), timeout=target.timeout_s)
        except OSError as error:
            raise _refused(target, error) from None


def _refused(target: Target, error: OSError) -> Stop:
    where = target.address
    if isinstance(error, TimeoutError):
        remedy = "check that the host is up, and that its address and the firewall let you reach it"
        return Stop(f"{where} did not answer within {target.timeout_s:g} s", remedy)
    if isinstance(error, ConnectionRefusedError):
        return Stop(f"{where} refused the connection", "start sshd on the host, or correct ansible_port")
    return Stop(f"{where}: {error.strerror or error}", "check that the host is up and its address is right")


def _greet(target: Target, transport: paramiko.Transport, trail: Trail) -> None:
    """Banner, key exchange, host key."""
    known = keys.known(target)
    options = transport.get_security_options()
    first = [kind for kind in options.key_types if keys.family(kind) in {keys.family(k.kind) for k in known}]
    options.key_types = tuple(first + [kind for kind in options.key_types if kind not in first])
    with trail.step("banner"):
        transport.banner_timeout = target.timeout_s
        try:
            transport.start_client(timeout=2 * target.timeout_s)
        except (paramiko.SSHException, EOFError, OSError) as error:
            says = f"{target.address} is open, and no SSH server answers there: {error or 'it hung up'}"
            raise Stop(says, "see what listens on that port; an sshd at its session limit hangs up, too") from None
        trail.note = transport.remote_version
    with trail.step("key"):
        trail.note = keys.judge(target, known, transport.get_remote_server_key())


# -- login -------------------------------------------------------------------------------------------------------


def _login(target: Target, transport: paramiko.Transport, trail: Trail) -> None:
    user = target.first("user")
    with trail.step("login"):
        allowed = _allowed(transport, user)
        tried: list[str] = []
        if "publickey" in allowed:
            for name, key in _identities(target, tried):
                with contextlib.suppress(paramiko.SSHException):
                    transport.auth_publickey(user, key)
                    trail.note = f"{user}, by {name}"
                    return
                tried.append(name)
        if target.password and not transport.is_authenticated():
            with contextlib.suppress(paramiko.SSHException):
                transport.auth_password(user, target.password)
                trail.note = f"{user}, by password"
                return
            tried.append("the password")
        if not transport.is_authenticated():
            told = ", ".join(tried) or "nothing to log in with"
            says = f"{user} was not let in: tried {told}; the host takes {', '.join(allowed) or 'nothing'}"
            raise Stop(says, "check ansible_user, its keys and password, and authorized_keys on the host")


def _allowed(transport: paramiko.Transport, user: str) -> list[str]:
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    except paramiko.SSHException as error:
        raise Stop(f"the host ended the login: {error}", "look at its sshd's log") from None
    return []


def _identities(target: Target, tried: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """The agent's keys, then the files, as OpenSSH tries them."""
    files = [Path(name.strip('"')).expanduser() for name in target.config.get("identityfile", [])]
    only = target.first("identitiesonly") == "yes"
    wanted = {_public(path) for path in files}
    if target.first("identityagent", "") != "none" and os.environ.get("SSH_AUTH_SOCK"):
        for key in paramiko.Agent().get_keys():
            if not only or key.get_base64() in wanted:
                yield f"the agent's key {key.comment or key.get_name()}", key
    for path in files:
        if not path.is_file():
            continue
        try:
            yield str(path), paramiko.PKey.from_path(path)
        except paramiko.PasswordRequiredException:
            tried.append(f"{path} (locked by a passphrase: add it to the agent)")
        except (paramiko.SSHException, ValueError, OSError, TypeError) as error:
            tried.append(f"{path} (unreadable: {error})")


def _public(path: Path) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"{path}.pub").read_text("utf-8", "replace").split()
        return words[1] if len(words) > 1 else ""
    return ""


# -- commands ----------------------------------------------------------------------------------------------------


def _runner(transport: paramiko.Transport) -> Run:
    def run(command: str, given: str) -> Answer:
        try:
            channel = transport.open_session(timeout=COMMAND_S)
            channel.settimeout(COMMAND_S)
            channel.exec_command(command)
            # A command that has ended by now did not want it.
            with contextlib.suppress(OSError):
                channel.sendall(given.encode())
                channel.shutdown_write()
            out = channel.makefile("rb").read(65536)
            err = channel.makefile_stderr("rb").read(65536)
            return channel.recv_exit_status(), out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise Stop(f"the host let {WORD} in and runs no command: {error}", "look at its sshd's log") from None

    return run


def openssh_runner(target: Target) -> Run:
    """Commands by OpenSSH itself, where it comes further than we do."""

    def run(command: str, given: str) -> Answer:
        argv = [target.executable, *target.arguments, "-o", "BatchMode=yes", target.alias, command]
        try:
            done = subprocess.run(
                argv, input=given, capture_output=True, text=True, check=False, timeout=COMMAND_S + target.timeout_s
            )
        except subprocess.TimeoutExpired:
            raise Stop("OpenSSH did not come to an end", "look at its sshd's log") from None
        return done.returncode, done.stdout, done.stderr

    return run


def commands(target: Target, trail: Trail, run: Run) -> None:
    """Shell, sudo and Python, by whatever runs commands there."""
    with trail.step("shell"):
        code, out, err = run(f"echo {WORD}", "")
        if out.strip() != WORD and WORD in out:
            trail.status = StepStatus.WARN
            trail.note = f"the shell's profile prints to programs, too: {out.replace(WORD, '').strip()[:100]}"
        elif WORD not in out:
            says = (
                f"the shell does not run commands (exit code {code}): {(err or out).strip()[:200] or 'it says nothing'}"
            )
            raise Stop(says, "look for an `exit` in the user's .bashrc or profile, and at the user's shell")
    if target.become:
        with trail.step("sudo"):
            trail.note = _sudo(target, run)
    else:
        trail.skip("sudo", "not asked for")
    with trail.step("python"):
        code, out, err = run(f"{shlex.quote(target.python)} -c 'import sys; print(sys.version)'", "")
        found = re.search(r"^(\d+\.\d+\.\d+)", out, re.M)
        if code == 127:
            trail.note = f"{target.python} is not there yet: `provision` installs it"
        elif code != 0 or not found:
            told = (err or out).strip().splitlines()
            says = (
                f"{target.python} is no Python that works (exit code {code}): {told[-1] if told else 'it says nothing'}"
            )
            raise Stop(says, "mend it, or name another with ansible_python_interpreter")
        else:
            trail.note = found[1]


#: What sudo says -> the cause and what to do.
SUDO = (
    ("you must have a tty", "sudo wants a terminal", "remove `requiretty` for this user in /etc/sudoers"),
    ("is not in the sudoers", "the user may not use sudo", "add the user to /etc/sudoers.d, or use another"),
    ("may not run sudo", "the user may not use sudo", "add the user to /etc/sudoers.d, or use another"),
    ("incorrect password", "sudo does not take the password", "give the right one with --ask-become-pass"),
    ("Sorry, try again", "sudo does not take the password", "give the right one with --ask-become-pass"),
    ("password is required", "sudo asks for a password", "give it with --ask-become-pass, or allow NOPASSWD"),
    ("not found", "there is no sudo", "install it, or log in as root"),
)


def _sudo(target: Target, run: Run) -> str:
    user = shlex.quote(target.become_user)
    how = "-S -p ''" if target.become_password else "-n"
    code, _, err = run(f"LC_ALL=C sudo {how} -u {user} true", f"{target.become_password or ''}\n")
    if code == 0:
        return f"to {target.become_user}" + (", by password" if target.become_password else "")
    for sign, says, remedy in SUDO:
        if sign in err:
            raise Stop(f"{says}: {err.strip().splitlines()[-1][:200]}", remedy)
    raise Stop(f"sudo failed (exit code {code}): {err.strip()[:200]}", "try `sudo true` on the host by hand")

"""From variables to environments as they should be: profiles expanded, PyTorch and what pairs with it worked in."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from llmprov.knowledge import COMPANIONS, PROFILES, companion
from llmprov.knowledge.tables import companion_newest
from llmprov.model import Desired, EnvironmentDeclaration, EnvironmentSpec, EnvironmentVars, Refusal
from llmprov.plan.environment import conda_name

#: Under this name PyTorch is a conda package.
CONDA_PYTORCH = "pytorch"


def declarations(desired: Desired) -> list[EnvironmentDeclaration]:
    """Every environment as it was declared, the main one first."""
    own: EnvironmentVars = desired.conda_env if desired.llm.env_manager == "conda" else desired.venv
    fields = set(EnvironmentDeclaration.model_fields)
    main = EnvironmentDeclaration(manager=desired.llm.env_manager, **own.model_dump(include=fields))
    further = [
        declared.model_copy(update={"manager": declared.manager or desired.llm.env_manager})
        for declared in desired.llm.environments
    ]
    return [main, *further]


def uses_conda(desired: Desired) -> bool:
    """Whether conda concerns a host: for an environment, or to be removed."""
    return desired.miniconda.state == "absent" or any(d.manager == "conda" for d in declarations(desired))


def specs(desired: Desired, variant: str | None) -> tuple[list[EnvironmentSpec], list[Refusal]]:
    """Every environment of a host, the main one first; `variant` is the build of PyTorch chosen for the host."""
    found, refused = [], []
    for declared in declarations(desired):
        spec, problems = spec_of(declared, desired, variant)
        found.append(spec)
        refused += problems
    if desired.pytorch.state == "present" and desired.pytorch.env_path not in {spec.path for spec in found}:
        refused.append(
            Refusal(
                component="pytorch",
                this=f"PyTorch in {desired.pytorch.env_path}",
                that="the environments that are declared",
                remedy="declare that one, as the main one or among llm_environments, or set pytorch_env_path",
            )
        )
    return found, [*refused, *_twice(found)]


def verified_spec(desired: Desired, variant: str | None) -> EnvironmentSpec | None:
    """The environment that the payload runs in; None where it is not declared."""
    return next((spec for spec in specs(desired, variant)[0] if spec.path == desired.verify.env_path), None)


def spec_of(
    declared: EnvironmentDeclaration, desired: Desired, variant: str | None
) -> tuple[EnvironmentSpec, list[Refusal]]:
    """One environment, and what in its declaration can never hold."""
    main = declarations(desired)[0]
    return _spec(declared, desired, variant, main=declared.path == main.path and declared.manager == main.manager)


def _spec(
    declared: EnvironmentDeclaration, desired: Desired, variant: str | None, main: bool
) -> tuple[EnvironmentSpec, list[Refusal]]:
    manager = declared.manager or desired.llm.env_manager
    component = "conda_env" if manager == "conda" else "venv"
    packages, conda_packages, refused = _with_profiles(declared, desired, component)
    conda = manager == "conda"
    if desired.jupyter.state == "present" and desired.jupyter.env_path == declared.path:
        packages += ["jupyterlab" if desired.jupyter.interface == "lab" else "notebook"]
    if desired.jupyter.state == "present" and declared.path in kernels_of(desired):
        packages += ["ipykernel"]
    with_torch = desired.pytorch.state == "present" and desired.pytorch.env_path == declared.path
    torch: list[str] = []
    if with_torch and variant is not None and declared.state == "present":
        packages, conda_packages, torch, more = _with_torch(packages, conda_packages, desired, variant, conda)
        refused += more
    if conda:
        python = f"python={declared.python}" if declared.python else "python"
        stated = any(conda_name(text) == "python" for text in conda_packages)
        conda_packages = conda_packages if stated and not declared.python else [python, *conda_packages]
    spec = EnvironmentSpec(
        manager=manager,
        path=declared.path,
        state=declared.state,
        python=declared.python,
        packages=_once(packages),
        packages_absent=declared.packages_absent,
        conda_packages=_once(conda_packages) if conda else [],
        channels=(declared.channels or desired.miniconda.channels) if conda else [],
        variables=declared.variables,
        on_path=declared.on_path,
        torch=torch,
        torch_index=_index(desired, variant) if torch else "",
        main=main,
    )
    if not conda and (declared.conda_packages or declared.file):
        refused.append(
            Refusal(
                component=component,
                this=f"conda packages for {declared.path}",
                that="a virtual environment, which takes none",
                remedy="set its manager to conda, or take them out",
            )
        )
    return spec, refused


def kernels_of(desired: Desired) -> list[str]:
    """The environments that are to be Jupyter kernels."""
    return desired.jupyter.kernels or [desired.jupyter.env_path]


def _with_profiles(
    declared: EnvironmentDeclaration, desired: Desired, component: str
) -> tuple[list[str], list[str], list[Refusal]]:
    packages, conda_packages, refused = list(declared.packages), list(declared.conda_packages), []
    named = {canonicalize_name(Requirement(text).name) for text in packages}
    for profile in declared.profiles:
        own = desired.llm.profile_definitions.get(profile)
        if own is None and profile not in PROFILES:
            known = ", ".join([*PROFILES, *desired.llm.profile_definitions])
            refused.append(
                Refusal(
                    component=component,
                    this=f"the profile {profile!r}",
                    that=f"the known ones ({known})",
                    remedy="correct its name, or define it in llm_profile_definitions",
                )
            )
            continue
        wanted = PROFILES[profile] if own is None else own.packages
        # What is declared by itself says more than the profile does: its version.
        packages += [text for text in wanted if canonicalize_name(Requirement(text).name) not in named]
        conda_packages += own.conda_packages if own else []
    return packages, conda_packages, refused


def _with_torch(
    packages: list[str], conda_packages: list[str], desired: Desired, variant: str, conda: bool
) -> tuple[list[str], list[str], list[str], list[Refusal]]:
    """Work PyTorch and its companions in: `packages`, `conda_packages`, PyTorch's own requirement, refusals."""
    wanted = desired.pytorch
    by_conda = wanted.source == "conda"
    refused: list[Refusal] = []
    kept = []
    for text in packages:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name not in COMPANIONS:
            kept.append(text)
            continue
        pair = companion(name, wanted.version)
        problem = _companion_problem(requirement, pair, desired, variant)
        if problem:
            refused.append(problem)
        elif by_conda:
            conda_packages = [*conda_packages, f"{name}={pair}"]
        else:
            kept.append(_paired(requirement, pair or ""))
    if by_conda and not conda:
        refused.append(
            Refusal(
                component="pytorch",
                this="`pytorch_source: conda`",
                that="a virtual environment",
                remedy="set llm_env_manager to conda, or pytorch_source to wheel",
            )
        )
    if by_conda:
        build = {"cpu": "=cpu*", "any": ""}.get(variant, "=cuda*")
        return kept, [*conda_packages, f"{CONDA_PYTORCH}={wanted.version}{build}"], [], refused
    local = "" if variant == "any" else f"+{variant}"
    return kept, conda_packages, [f"torch=={wanted.version}{local}"], refused


def _paired(requirement: Requirement, pair: str) -> str:
    """A companion pinned to the release that pairs with PyTorch; its build is that of the index it comes from."""
    return str(requirement) if requirement.specifier else f"{requirement.name}=={pair}.*"


def _companion_problem(requirement: Requirement, pair: str | None, desired: Desired, variant: str) -> Refusal | None:
    name, torch = canonicalize_name(requirement.name), desired.pytorch
    if pair is None:
        return Refusal(
            component="pytorch",
            this=name,
            that=f"PyTorch {torch.version}, for which no {name} was published",
            remedy=f"take it out, or set pytorch_version to {companion_newest(name)} or older",
        )
    stated = str(requirement.specifier)
    if stated and "+" not in stated and not requirement.specifier.contains(f"{pair}.0", prereleases=True):
        releases = Version(pair)
        if not any(requirement.specifier.contains(f"{releases}.{patch}") for patch in range(10)):
            return Refusal(
                component="pytorch",
                this=f"{requirement}",
                that=f"PyTorch {torch.version}, which pairs with {name} {pair}",
                remedy="take the version out, and the right one is chosen",
            )
    if torch.source == "wheel" and variant != "any" and not torch.index_url and "+" not in stated:
        return Refusal(
            component="pytorch",
            this=f"the plain index's {name}",
            that=f"the {variant} build of PyTorch, beside which it does not load",
            remedy="set pytorch_index_url, so that both come from the wheel index, or name its build "
            f"({name}=={pair}.0+{variant}) where your index has one",
        )
    return None


def _index(desired: Desired, variant: str | None) -> str:
    plain = variant in (None, "any")
    return f"{desired.pytorch.index_url}/{variant}" if desired.pytorch.index_url and not plain else ""


def _twice(found: list[EnvironmentSpec]) -> list[Refusal]:
    paths = [spec.path for spec in found]
    return [
        Refusal(
            component="preflight",
            this=f"an environment at {path}",
            that="another one declared at the same path",
            remedy="give each of llm_environments a path of its own",
        )
        for path in sorted({path for path in paths if paths.count(path) > 1})
    ]


def _once(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))

"""Artifacts that hosts install from. For now: the installer tool and this machine's package indexes."""

"""The controller's store of artifacts that hosts install from.

pip_config  this machine's package indexes, in uv's words
wheels      requirements -> wheels, resolved once for each kind of host
conda       conda specs -> conda packages, likewise
store       each artifact fetched once, checked against its digest, kept under a size
session     what the forks of one Ansible share: resolutions, and the server
server      artifacts over HTTP, for hosts that reach this machine through a tunnel or by themselves
"""

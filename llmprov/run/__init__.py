"""Running: ansible-runner behind one door, events folded into a ledger, progress, cancel."""

#: The file of a lock, unless another is named.
LOCK_NAME = "llmprov.lock"

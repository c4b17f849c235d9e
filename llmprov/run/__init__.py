"""Running: ansible-runner behind one door, events folded into a ledger, progress, cancel."""

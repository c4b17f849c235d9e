"""What runs on hosts: checks and measurements, under the environment's own Python.

Python 3.9 and later, standard library and torch only; imports nothing else of llmprov. `python -m llmprov.payload
--level quick` prints one JSON document, alone, on standard output.
"""

PAYLOAD_VERSION = "1"

"""The host's side of the box: what the command `appliance` does on the machine itself.

Runs on the box's own python3 and uses the standard library and `appliance.errors` only, so that it works before anything
is installed and when everything is broken. See `docs/operations.rst`.
"""

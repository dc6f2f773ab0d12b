"""secret.py FILE BYTES: makes a file with a random secret, for root alone, unless it is there."""
import os
import secrets
import sys

path, count = sys.argv[1], int(sys.argv[2])
os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
try:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
except FileExistsError:
    sys.exit(0)
with os.fdopen(handle, "w") as file:
    file.write(secrets.token_urlsafe(count) + "\n")
print("made")

"""record.py CONFIG check|write JSON: adds to CONFIG/installed.json what a role is about to install."""

import json
import os
import sys
import tempfile


def main():
    config, mode, text = sys.argv[1:]
    wanted = json.loads(text)
    path = os.path.join(config, "installed.json")
    try:
        with open(path, encoding="utf-8") as file:
            there = json.load(file)
    except FileNotFoundError:
        there = {}
    after = dict(there)
    for key, value in wanted.items():
        after[key] = sorted({*there.get(key, []), *value}) if isinstance(value, list) else value
    if after == there:
        return
    print("added")
    if mode != "write":
        return
    os.makedirs(config, mode=0o750, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=config)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(after, file, indent=4, sort_keys=True)
        file.write("\n")
        os.fchmod(file.fileno(), 0o640)
        os.fsync(file.fileno())
    os.replace(temporary, path)


main()

"""Runs `appliance preflight` out of what comes on standard input, and leaves nothing behind.

Reads {"program": a zip archive in base64, "plan": {...}, "files": {key of the plan: text}}; writes the program's JSON.
Status 0 whatever the checks found.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile

given = json.load(sys.stdin)
with tempfile.TemporaryDirectory(prefix="appliance-preflight-") as folder:
    archive, plan_file = os.path.join(folder, "program.zip"), os.path.join(folder, "plan.json")
    with open(archive, "wb") as file:
        file.write(base64.b64decode(given["program"]))
    plan, shown = given["plan"], {}
    for key, text in given["files"].items():  # files of the machine that Ansible runs on
        here = os.path.join(folder, key)
        with open(here, "w", encoding="utf-8") as file:
            file.write(text)
        shown[here], plan[key] = plan[key], here
    with open(plan_file, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from appliance.box.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-I", "-B", "-c", start, archive, "preflight", "--json", "--plan", plan_file],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
text = done.stdout.decode()
for here, there in shown.items():
    text = text.replace(here, there)
print(text)
sys.exit(0 if done.returncode == 1 and text.strip() else done.returncode)

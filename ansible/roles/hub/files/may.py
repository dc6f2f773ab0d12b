"""What this machine lets the engine do: a machine that is itself a container may lack what compose.yaml asks for."""
import json
import re

with open("/proc/1/status") as file:
    bounds = int(re.search(r"^CapBnd:\s*(\w+)", file.read(), re.MULTILINE)[1], 16)
with open("/proc/1/mountinfo") as file:
    shared = {line.split()[4]: " shared:" in line.partition(" - ")[0] for line in file}
print(json.dumps({"oom_score": bool(bounds & 1 << 24), "shared": shared.get("/run", shared.get("/", False))}))  # SYS_RESOURCE

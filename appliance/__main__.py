"""`python -m appliance` is the command `appliance`."""

from appliance.program import program

if __name__ == "__main__":
    program()

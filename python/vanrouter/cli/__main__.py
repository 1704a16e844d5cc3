"""``python -m vanrouter.cli`` is ``van``."""

from vanrouter.cli.main import van

if __name__ == "__main__":
    van(prog_name="van")

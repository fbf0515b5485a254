"""The command line: `python -m pathors_agent`."""

import sys

from pathors_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())

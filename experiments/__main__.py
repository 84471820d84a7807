"""`python -m experiments`: list, show, run and report the studies of the papers."""

import sys

from experiments import elu
from relujax.cli import main, studies_of

STUDIES = studies_of(elu)

if __name__ == "__main__":
    sys.exit(main(STUDIES))

"""`python -m experiments`: list, show, run and report the studies of the papers."""

import sys

from experiments import elu, proportional, resnet_elu, search, tanhexp
from relujax.catalog import studies_of
from relujax.cli import main

STUDIES = studies_of(proportional, elu, resnet_elu, tanhexp, search)

if __name__ == "__main__":
    sys.exit(main(STUDIES))

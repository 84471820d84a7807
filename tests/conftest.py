"""Two CPU devices, as on the smallest machine with several; every test has its own cache and needs no network."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

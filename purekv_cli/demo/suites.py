"""The suites of demo clips and their lengths; without NumPy, for the shell's completion."""

SUITES = {
    "short": 16, "medium": 32, "long": 64, "verylong": 128,
    "outdoors-short": 16, "outdoors": 32, "outdoors-long": 64,
}  # fmt: skip

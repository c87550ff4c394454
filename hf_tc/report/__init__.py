# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion did: as data, on the console, as a page and as pictures."""

REPORT_FILE = "conversion_report.json"  # in a student's folder

"""Reads an HdrHistogram interval log with PyPI `hdrhistogram` and prints, for each tag, the merged
count and quantiles as JSON."""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

LOWEST, HIGHEST, DIGITS = 1_000, 3_600 * 10**9, 3

merged = {}
reader = HistogramLogReader(sys.argv[1], HdrHistogram(LOWEST, HIGHEST, DIGITS))
while (part := reader.get_next_interval_histogram()) is not None:
    whole = merged.setdefault(part.get_tag(), HdrHistogram(LOWEST, HIGHEST, DIGITS))
    whole.add(part)
json.dump(
    {
        tag: {
            "count": h.get_total_count(),
            **{f"p{str(q).replace('.', '')}_ns": h.get_value_at_percentile(q) for q in (50, 90, 99, 99.9)},
        }
        for tag, h in merged.items()
    },
    sys.stdout,
)

#!/usr/bin/env python3
"""Known answers for src/analysis/trend.rs, from SciPy and NumPy.

    pip install scipy && scripts/golden/steady.py > tests/golden/steady.json

Theil-Sen is scipy.stats.theilslopes. The p of Mann-Kendall is scipy.stats.kendalltau against time,
exact where no values are equal; where some are, SciPy has no continuity correction, so the normal
approximation is written out here (Kendall 1975, (4.3) and (5.3)). MSER-5 is written out as White
(1997) defines it, every cut tried.
"""

import json

import numpy as np
from scipy.stats import kendalltau, norm, theilslopes


def mann_kendall(y):
    n = len(y)
    s = int(sum(np.sign(y[j] - y[i]) for i in range(n) for j in range(i + 1, n)))
    if len(set(y)) == n:
        return s, kendalltau(np.arange(n), y, method="exact").pvalue
    ties = np.unique(y, return_counts=True)[1]
    var = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    z = max(abs(s) - 1, 0) / np.sqrt(var) if var > 0 else 0.0
    return s, min(2 * norm.sf(z), 1.0)


def mser5(y):
    k = len(y) // 5
    b = np.asarray(y[: 5 * k]).reshape(k, 5).mean(axis=1)
    s = [((b[d:] - b[d:].mean()) ** 2).sum() / (k - d) ** 2 for d in range(k // 2 + 1)]
    d = int(np.argmin(s))
    return 5 * d, d == k // 2


def case(name, t, y):
    t, y = [float(v) for v in t], [round(float(v), 6) for v in y]
    s, p = mann_kendall(y)
    cut, at_limit = mser5(y) if len(y) >= 10 else (None, None)
    return {
        "name": name,
        "times": t,
        "values": y,
        "slope": float(theilslopes(y, t).slope),
        "s": s,
        "p": float(p),
        "cut": cut,
        "at_limit": at_limit,
    }


rng = np.random.default_rng(20261123)
noise = lambda n: rng.standard_normal(n)
t60 = np.arange(60) + 0.5
gaps = np.delete(t60, [7, 8, 9, 31, 50])
cases = [
    case("noise of 12", range(12), 100 + noise(12)),
    case("rising of 12", range(12), np.arange(12) * 2 + 100 + noise(12)),
    case("one in order", range(12), np.arange(12)),
    case("four", [0, 1, 3, 7], [3, 1, 4, 2]),
    case("ties", range(12), [1, 2, 2, 3, 3, 3, 2, 4, 5, 5, 4, 6]),
    case("all equal", range(12), [7] * 12),
    case("noise of 40", range(40), 50 + noise(40)),
    case("with gaps", gaps, 1000 - 2 * gaps + 5 * noise(len(gaps))),
    case("settles", t60, 1000 - 300 * np.exp(-t60 / 10) + 5 * noise(60)),
    case("steps up in the middle", t60, np.where(t60 < 30, 500, 1000) + 5 * noise(60)),
    case("falls all the way", t60, 1000 - 5 * t60 + noise(60)),
]
print(json.dumps(cases, indent=1))

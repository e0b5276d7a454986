"""Battles between two fighters, made by a seeded generator: who wins follows from their values, nearly always."""

import numpy as np
import pandas as pd


STATS = ("hp", "attack", "defense", "speed", "level")
FEATURES = [f"{side}_{stat}" for side in ("first", "second") for stat in STATS] + [
    f"difference_{stat}" for stat in STATS
]
_WEIGHTS = np.array([0.3, 0.5, 0.3, 3.0, 1.0])


def battles(n_samples: int = 3000, seed: int = 11) -> pd.DataFrame:
    """Return battles with the columns `FEATURES` and `winner`, 1 where the first fighter wins; the faster one has an edge."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(1, 100, size=(2, n_samples, len(STATS)))
    difference = first - second
    strength = difference @ _WEIGHTS + 20.0 * np.sign(difference[:, STATS.index("speed")])
    chance = rng.normal(scale=2.0, size=n_samples)
    frame = pd.DataFrame(np.hstack([first, second, difference]), columns=FEATURES)
    frame["winner"] = (strength + chance > 0).astype(int)
    return frame

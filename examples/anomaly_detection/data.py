"""Readings of a machine's sensors, made by a seeded generator: most are normal, a few are not."""

import numpy as np


ANOMALY_RATE = 0.05
N_FEATURES = 4


def readings(n_samples: int = 1000, seed: int = 7) -> np.ndarray:
    """Return `n_samples` rows of temperature, pressure, vibration and current: slow waves, noise, and spikes in 5 % of them."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples)[:, None]
    waves = np.sin(time / np.array([25.0, 40.0, 10.0, 60.0]) + np.array([0.0, 1.0, 2.0, 3.0]))
    rows = waves + rng.normal(scale=0.1, size=(n_samples, N_FEATURES))
    spikes = rng.choice(n_samples, size=int(n_samples * ANOMALY_RATE), replace=False)
    rows[spikes] += rng.choice([-3.0, 3.0], size=(len(spikes), N_FEATURES))
    return rows


def windows(rows: np.ndarray, length: int) -> np.ndarray:
    """Return every run of `length` rows that follow each other."""
    return np.stack([rows[start : start + length] for start in range(len(rows) - length + 1)])

"""An LSTM autoencoder by PyTorch: what it cannot reproduce is an anomaly."""

from pathlib import Path

import numpy as np
import torch

from data import windows
from torch import nn

import mltrace


NAME = "lstm_autoencoder"


class Autoencoder(nn.Module):
    """Encodes a window into the last state of an LSTM, and decodes it from there."""

    def __init__(
        self, n_features: int, hidden: int = 16, encoder_layers: int = 1, decoder_layers: int = 1
    ) -> None:
        super().__init__()
        self.encoder = nn.LSTM(n_features, hidden, encoder_layers, batch_first=True)
        self.decoder = nn.LSTM(hidden, hidden, decoder_layers, batch_first=True)
        self.output = nn.Linear(hidden, n_features)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        state = self.encoder(batch)[1][0][-1]
        repeated = state.unsqueeze(1).expand(-1, batch.shape[1], -1).contiguous()
        return self.output(self.decoder(repeated)[0])


def train_lstm_autoencoder(
    rows: np.ndarray,
    encoder_layers: int = 1,
    decoder_layers: int = 1,
    sequence_length: int = 20,
    batch_size: int = 64,
    epochs: int = 5,
    learning_rate: float = 0.01,
) -> None:
    params = {
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "epochs": epochs,
        "learning_rate": learning_rate,
    }
    torch.manual_seed(0)
    data = torch.tensor(windows(rows, sequence_length), dtype=torch.float32)
    model = Autoencoder(rows.shape[1], encoder_layers=encoder_layers, decoder_layers=decoder_layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    with mltrace.log_training_run(f"{NAME}_{len(rows)}_samples", params=params) as run:
        for epoch in range(epochs):
            losses = []
            for batch in data[torch.randperm(len(data))].split(batch_size):
                loss = nn.functional.mse_loss(model(batch), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            run.log_metric("train_loss", float(np.mean(losses)), step=epoch)
        with torch.no_grad():
            errors = ((model(data) - data) ** 2).mean(dim=(1, 2)).numpy()
        run.log_metrics(
            {
                "final_loss": float(np.mean(losses)),
                "mean_reconstruction_error": float(errors.mean()),
                "threshold": float(np.quantile(errors, 0.95)),
            }
        )
        here = Path(__file__).parent
        code = [str(here / "lstm.py"), str(here / "data.py")]
        run.log_model(model, NAME, registered_model_name=NAME, code_paths=code)

"""What a run of the demo consists of."""

from dataclasses import dataclass

# Networks by the name that the table gives them, and the trainers that make them.
ARMS = {
    "stock": "nnUNetTrainerSALSTMOff",
    "SA-LSTM A": "nnUNetTrainerSALSTM_A",
    "SA-LSTM B": "nnUNetTrainerSALSTM_B",
}


@dataclass(frozen=True)
class Settings:
    """The size of a run.

    Attributes:
        training_cases, test_cases: number of volumes.
        slices, edge: size of a volume in voxels; the number of slices varies by one over the cases.
        epochs, iterations: length of each training, and training iterations an epoch.
        mirroring: whether prediction averages over mirrored images, as nnU-Net does by default.
        disk: bytes that the run needs.
        seed: of the phantoms and of the networks' weights and augmentation.
    """

    training_cases: int
    test_cases: int
    slices: int
    edge: int
    epochs: int
    iterations: int
    mirroring: bool
    disk: int
    seed: int = 0

    def trainer(self, arm: str) -> str:
        """Returns the name of the trainer of an arm, e.g. "nnUNetTrainerSALSTM_A_5epochs_15its_seed0"."""
        return f"{ARMS[arm]}_{self.epochs}epochs_{self.iterations}its_seed{self.seed}"


QUICK = Settings(
    training_cases=12, test_cases=4, slices=6, edge=40, epochs=5, iterations=20, mirroring=False, disk=500_000_000
)
FULL = Settings(
    training_cases=14, test_cases=6, slices=8, edge=56, epochs=6, iterations=20, mirroring=True, disk=500_000_000
)

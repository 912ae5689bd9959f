"""export.json: what an exported network is, where it comes from and what was measured of it."""

from typing import Literal

from harness.records.schema import SCHEMA_VERSION, Evaluation, Import, Manifest, Record, Result

RECORD, WEIGHTS, CONFIG, CARD = "export.json", "model.safetensors", "config.yaml", "README.md"


class Export(Record):
    """The record in an exported folder. None means that it is not recorded."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str  # that exported it
    run: str  # "<recipe>/<run id>"
    weights: Literal["ema", "raw"]
    step: int  # training steps behind the weights; 0 for an imported network, whose training is not known
    weights_sha256: str  # names' and values', as evaluations record it; independent of the file format
    config_sha256: str  # that of config.yaml beside it
    run_config_sha256: str  # that of the run's config.yaml: another one where it named folders of the machine it ran on
    license: str  # an identifier; "unknown" if none was chosen
    manifest: Manifest | None = None
    imported: Import | None = None
    result: Result | None = None  # without its evaluations
    evaluations: dict[str, Evaluation]  # those that measured these weights
    files: dict[str, str]  # name: sha256, of every other file of the export

    @property
    def vae(self) -> tuple[str | None, str | None]:
        """Name and hash of the VAE between pixels and the network, None where there is none or it has no hash."""
        if self.manifest:
            return self.manifest.data.vae, self.manifest.data.vae_sha256
        return (self.imported.vae if self.imported else None), None

"""Published weights: files that never change, each known by its sha256, found on this machine or downloaded.

Importing this module, and describing a file with it, touches neither disk nor network.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from harness.system import downloads
from harness.system.errors import DataError, HarnessError, SetupError, one_line
from harness.system.files import cache_folder, sha256_of

LARGEST = 2**32  # bytes of a download


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One published file of weights: where it comes from, its hash, and where it may lie on this machine.

    It comes from huggingface.co, which `repository` and `revision` say, or from `url`. It is looked for in the folder
    that the environment variable `variable` names, then in the folder `folder` of the harness cache, then in the cache
    of huggingface_hub or of torch.hub.
    """

    name: str  # for messages and records
    file: str
    sha256: str
    repository: str = ""
    revision: str = ""  # the commit
    url: str = ""
    variable: str = "HARNESS_FEATURES"
    folder: str = "features"
    other_names: tuple[str, ...] = ()  # what other projects call the same file in torch.hub's cache
    largest: int = LARGEST
    instead: str = ""  # what else a user without the file can do: "give --weights FILE"

    @property
    def address(self) -> str:
        return self.url or f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.file}"

    @property
    def home(self) -> Path:
        """Where a user puts the file when this machine has no network."""
        return cache_folder() / self.folder / Path(self.repository).name / self.file

    @property
    def advice(self) -> str:
        """How to get the file by hand."""
        given = f"${self.variable}/{Path(self.repository).name}/" if self.repository else f"${self.variable}"
        return f"fetch {self.address} to {self.home} (or into {given}); sha256 {self.sha256}"

    def find(self) -> Path | None:
        """Where the file lies on this machine, its hash not yet checked; None: at no known place."""
        home = Path(self.repository).name
        places = [folder / home / self.file for folder in folders(self.variable, self.folder)]
        if given := os.environ.get(self.variable):  # it may also be the very folder that holds the file
            places.append(Path(given) / self.file)
        return next((path for path in (*places, *self._elsewhere()) if path.is_file()), None)

    def get(self) -> Path:
        """The file, with its hash checked; downloaded where it is nowhere on this machine.

        Raises SetupError when it is missing and cannot be downloaded, and DataError when the file has another hash.
        """
        path = self.find() or self._download()
        found = checksum(path)
        if found != self.sha256:
            raise DataError(
                f"{path} is not the published file of {self.name}: its sha256 is {found} instead of {self.sha256}. "
                f"Replace it by {self.address}, or let {self.variable} name another folder."
            )
        return path

    def _elsewhere(self) -> list[Path]:
        """The caches of the libraries that usually fetch such files, which are asked offline."""
        if self.repository:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(self.repository, self.file, revision=self.revision)
            return [Path(found)] if isinstance(found, str) else []
        import torch.hub

        return [Path(torch.hub.get_dir()) / "checkpoints" / name for name in (self.file, *self.other_names)]

    def _download(self) -> Path:
        """A public file: no token is sent."""
        try:
            if self.repository:
                from huggingface_hub import hf_hub_download
                from huggingface_hub.utils import logging

                logging.set_verbosity_error()  # it reports every retry, and the error below says it all
                return Path(hf_hub_download(self.repository, self.file, revision=self.revision, token=False))
            downloads.fetch(self.url, self.home, sha256=self.sha256, most=self.largest)
            return self.home
        except HarnessError:
            raise  # a signal that arrived meanwhile
        except Exception as error:  # of net, server or disk, whatever the HTTP library below raises
            reason = one_line(error.__cause__ or error)
            instead = f", or {self.instead}" if self.instead else ""
            raise SetupError(
                f"the published weights of {self.name} are not on this machine and could not be downloaded: {reason}. "
                f"Fetch {self.address} (sha256 {self.sha256}) to {self.home}, or into the folder that {self.variable} "
                f"names{instead}."
            ) from None


def folders(variable: str, folder: str) -> list[Path]:
    """Where weights of one kind are looked for first: the folder a user names, and one of the harness cache."""
    given = os.environ.get(variable)
    return [*([Path(given)] if given else []), cache_folder() / folder]


def checksum(path: Path) -> str:
    """The file's sha256. Raises DataError when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file and repeat the command.") from None

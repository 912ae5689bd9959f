"""repa-proxy: the frozen encoder of runs on small images, a classifier of the images that the run trains on.

It is trained as the feature network "own" is (harness.data.classifier), from another seed, so that it is never the
network that measures the run.
"""

import hashlib
from dataclasses import replace

from safetensors.torch import save

from harness.data import classifier
from harness.data.dataset import Dataset
from harness.model.encoders import PROXY, Local
from harness.system.errors import DataError
from harness.system.files import new_file, sha256_of

RECIPE = replace(classifier.OWN, seed=1)


def made(data: Dataset) -> str:
    """The sha256 of the file of weights for these images, which lies where an Encoder finds it afterwards.

    From the cache, or trained when the cache has no sound copy. Random data, for speed alone, get a network that is not
    trained. Raises DataError for data that no classifier can be trained on, or when the disk refuses the file.
    """
    if data.real:
        if reason := classifier.unfit(data):
            raise DataError(f"no {PROXY} can be trained on {data.name}: {reason}. Name another with --set encoder=.")
        module = classifier.load(data, RECIPE).module
    else:
        module = classifier.train(data, replace(RECIPE, steps=0)).module
    weights = {name: values.float().contiguous() for name, values in module.state_dict().items()}
    content = save(weights)  # nothing else is in the file, so the same weights have the same hash
    sha256 = hashlib.sha256(content).hexdigest()
    path = Local.of(PROXY, sha256, "safetensors").home
    if not (path.is_file() and sha256_of(path) == sha256):
        with new_file(path) as temporary:
            temporary.write_bytes(content)
    return sha256

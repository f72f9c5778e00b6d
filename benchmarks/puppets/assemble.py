"""Put the results of the training stages together as the package ships them:

python benchmarks/puppets/assemble.py --out DIR --to lavieid_adapters/puppets/weights
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from train_adapters import load_base

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter
from lavieid_adapters.files.atomic import written_aside
from lavieid_adapters.models.checkpoint import Metadata, save_folder

_MOST, _LARGEST = 45e6, 16e6  # bytes altogether, and of a file
_ROUTER = "strong-diffusion"  # the variant that shows a person best
_MIRROR_FIRST = True  # leaves no step between TAM's first chunk and the next


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    with written_aside(args.to) as made:
        put_together(args.out, made)
        sizes = {file: file.stat().st_size for file in made.rglob("*") if file.is_file()}
        largest, total = max(sizes, key=sizes.get), sum(sizes.values())
        print(f"{total / 1e6:.1f} MB in {len(sizes)} files, of which {largest.name} has {sizes[largest] / 1e6:.1f} MB")
        if total > _MOST or sizes[largest] > _LARGEST:
            raise SystemExit(f"That is more than {_MOST / 1e6:.0f} MB, or more than {_LARGEST / 1e6:.0f} MB a file.")


def put_together(out: Path, to: Path) -> None:
    """Write the base, its adapters, and the networks that see and judge."""
    load_base(out, torch.device("cpu"), torch.float16).save_pretrained(to, max_shard_size="15MB")
    adapters = out / "adapters"
    tam = TAM.from_pretrained(adapters / "tam/tam").half()
    tam.register_to_config(mirror_first=_MIRROR_FIRST)
    save_folder(
        {
            "router": LocalRouter.from_pretrained(adapters / _ROUTER / "router").half(),
            "encoder": LocalFacialEncoder.from_pretrained(adapters / _ROUTER / "encoder").half(),
            "tam": tam,
        },
        to / "lavieid",
        Metadata("lavieid_adapters.puppets"),
    )
    for name, source in {
        "face": "face", "vision": "vision", "judges/recognizer": "recognizer", "judges/analyst": "analyst",
        "judges/motion": "motion",
    }.items():  # fmt: skip
        shutil.copytree(out / source, to / name)
    for config in to.rglob("config.json"):  # which would say on whose machine, and where, the parts lay
        settings = json.loads(config.read_text())
        settings.pop("_name_or_path", None)
        config.write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Put the results of the training stages together as the package ships them:

python benchmarks/puppets/assemble.py --out DIR --to lavieid_adapters/puppets/weights
"""

import argparse
import shutil
from pathlib import Path

import torch
from train_adapters import load_base

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter
from lavieid_adapters.folder import Metadata, save_folder

_MOST, _LARGEST = 25e6, 16e6  # bytes altogether, and of a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    shutil.rmtree(args.to, ignore_errors=True)
    load_base(args.out, torch.device("cpu"), torch.float16).save_pretrained(args.to)
    adapters = args.out / "adapters"
    save_folder(
        {
            "router": LocalRouter.from_pretrained(adapters / "lavieid/router").half(),
            "encoder": LocalFacialEncoder.from_pretrained(adapters / "lavieid/encoder").half(),
            "tam": TAM.from_pretrained(adapters / "tam/tam").half(),
        },
        args.to / "lavieid",
        Metadata("lavieid_adapters.puppets"),
    )
    for name, source in {
        "face": "face", "vision": "vision", "judges/recognizer": "recognizer", "judges/analyst": "analyst",
        "judges/motion": "motion",
    }.items():  # fmt: skip
        shutil.copytree(args.out / source, args.to / name)
    sizes = {file: file.stat().st_size for file in args.to.rglob("*") if file.is_file()}
    largest = max(sizes, key=sizes.get)
    total = sum(sizes.values())
    print(f"{total / 1e6:.1f} MB in {len(sizes)} files; the largest is {largest.name}, {sizes[largest] / 1e6:.1f} MB")
    if total > _MOST or sizes[largest] > _LARGEST:
        raise SystemExit(f"That is more than {_MOST / 1e6:.0f} MB, or more than {_LARGEST / 1e6:.0f} MB a file.")


if __name__ == "__main__":
    main()

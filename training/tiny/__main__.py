"""`python -m training.tiny COMMAND`: rebuilds the embedded parent.

train     trains one seed into a run folder (continues where it stopped)
export    writes checkpoint and tasks of a run into the package
measure   scores real slices of the exported parent and writes the figures into its card
check     compares the training forward with the stock model
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import torch

PACKAGE = Path(__file__).parents[2] / "matformer_lab" / "tiny"


def main() -> None:
    from training.tiny.train import Options

    parser = argparse.ArgumentParser(
        prog="python -m training.tiny",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("run", type=Path)
    for field in fields(Options):
        kind = type(field.default)
        train.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    export = commands.add_parser("export")
    export.add_argument("run", type=Path)
    export.add_argument("--out", type=Path, default=PACKAGE)
    measure = commands.add_parser("measure")
    measure.add_argument("sweep", type=Path)
    measure.add_argument("--out", type=Path, default=PACKAGE)
    commands.add_parser("check")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    match arguments.command:
        case "train":
            from training.tiny.train import Trainer

            values = {field.name: getattr(arguments, field.name) for field in fields(Options)}
            Trainer(Options(**values), arguments.run).run()
        case "export":
            from training.tiny.build import export_run

            export_run(arguments.run, arguments.out)
        case "measure":
            from training.tiny.build import measure as write_figures

            write_figures(arguments.sweep, arguments.out)
        case "check":
            from training.tiny import network
            from training.tiny.check import differences

            shape = network.Shape(vocab=1024)
            print(json.dumps(differences(network.init(shape, 0), shape), indent=2))


if __name__ == "__main__":
    main()

"""``bavt-fast train``: a small model and its critic; ``bavt-fast train critic``: a critic for a model as it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from bavt_fast.cli.output import refuse
from bavt_fast.cli.train_critic import train_critic
from bavt_fast.folder_settings import embedded_folder, read_settings
from bavt_fast.tasks import training_module

__all__ = ["training"]

training = typer.Typer(help="Train a small model and its critic, or a critic for a model as it is.")
training.command("critic")(train_critic)


@training.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, the log and, at the end, the model folder.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task to train for; the embedded model's without it.")] = None,
    minutes: Annotated[float, typer.Option(help="Wall time of the training.")] = 75.0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    init: Annotated[Path | None, typer.Option(help="A checkpoint or a model folder to go on from.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where the model is trained: cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[
        int, typer.Option(help="Processes that make batches, which a GPU needs; 0 for a thread of this one.")
    ] = 0,
    layers: Annotated[
        int | None, typer.Option(help="Of the model: as many as --init has, or 8. More are added to it.")
    ] = None,
    mlp_size: Annotated[
        int | None, typer.Option(help="Width inside a layer: that of --init, or 832. It may be larger, too.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences of an update; the task's own number without it.")] = None,
    muon_lr: Annotated[float, typer.Option(help="Learning rate of the matrices inside the layers.")] = 0.02,
    lr: Annotated[float, typer.Option(help="Learning rate of everything else.")] = 3e-3,
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = True,
) -> None:
    """Train a small model and its critic on problems that the task generates."""
    if context.invoked_subcommand is not None:
        return
    try:
        if out is None:
            raise ValueError("out: expected a folder; give one with --out")
        from bavt_fast.training.checkpoints import export, sizes_of
        from bavt_fast.training.trainer import TrainConfig, Trainer, prepare_out

        sizes: dict[str, Any] = {} if init is None else sizes_of(init)
        sizes |= {name: size for name, size in (("layers", layers), ("mlp_size", mlp_size)) if size is not None}
        config = TrainConfig(
            out=str(out),
            minutes=minutes,
            seed=seed,
            init=None if init is None else str(init),
            threads=threads,
            compile=compile_model,
            device=device,
            workers=workers,
            batch=batch,
            muon_lr=muon_lr,
            lr=lr,
            **sizes,
        )
        name = read_settings(embedded_folder()).task if task is None else task
        course = training_module(name).make_course()
        trainer = Trainer(config, course)
        prepare_out(out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        trainer.run()
        export(out / "checkpoint.pt", out / "model", course, config.sizes)
    except (ValueError, OSError, RuntimeError) as error:  # of the disk, the device, a worker
        refuse(error)
    typer.echo(f"model folder: {out / 'model'}")

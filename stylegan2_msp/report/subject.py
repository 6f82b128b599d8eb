"""What is measured: a network with a condition, and the data and the baseline that fit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.archive import Archive, open_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import ConditionalGenerator, find_snapshot, load_generator

_SHOWN = 12  # names of classes


def load_conditional(network: str | Path, device: str) -> ConditionalGenerator:
    """A generator with a condition to evaluate and the classifier to do it with; raises `UserError` for another."""
    generator = load_generator(find_snapshot(network), device)
    if not generator.takes_u:
        raise UserError(
            f"{generator.snapshot.path}: was trained without MSP, there is nothing to compare; give a --cond-msp=1 run"
        )
    if generator.classifier is None:
        raise UserError(
            f"{generator.snapshot.path}: holds no classifier to ask; train on annotated data that hold one "
            "(a pickle: `import --data`)"
        )
    return generator


def class_only(path: str | Path, generator: ConditionalGenerator) -> ConditionalGenerator:
    """A generator of the same data that knows the class only; raises `UserError` for another."""
    other = load_generator(find_snapshot(path), generator.device)
    if other.takes_u or not other.takes_class:
        raise UserError(
            f"--baseline {path}: must be conditioned on the class alone; train it with --cond-msp=0 --cond=1"
        )
    found, wanted = ((g.kind, g.num_classes, _shape(g)) for g in (other, generator))
    if found != wanted:
        raise UserError(f"--baseline {path}: makes {found}, the network {wanted}; give one of the same data")
    return other


def fitting_archive(generator: ConditionalGenerator, data: str | Path | None, notes: list[str]) -> Archive | None:
    """The archive of the natural labels, by default the one of the training, or None with a note why not.

    Raises:
        UserError: it cannot be read, or is not of the generator's kind, classes, measure or size.
    """
    info = generator.snapshot.info
    trained_on = (info.get("config") or {}).get("data")
    if data is None:
        if trained_on is None or not Path(trained_on).exists():
            notes.append(f"the run's data ({trained_on}) are not here: no figures on natural labels; give --data")
            return None
        data = str(trained_on)
    archive = open_archive(data)
    if archive.num_classes != generator.num_classes or archive.kind != generator.kind or not archive.annotated:
        raise UserError(
            f"{archive.path}: holds {archive.kind} of {archive.num_classes} classes"
            f"{'' if archive.annotated else ' without uncertainty'}, the snapshot wants annotated {generator.kind} of "
            f"{generator.num_classes}; give the run's own data with --data"
        )
    names = info.get("class_names")
    if names and archive.class_names and list(names) != archive.class_names:
        theirs, ours = (", ".join(map(str, some[:_SHOWN])) for some in (archive.class_names, names))
        raise UserError(
            f"{archive.path}: has the classes {theirs}, the snapshot {ours}; give data whose classes are named as those"
        )
    if archive.uncertainty != generator.measure.name:
        raise UserError(
            f"{archive.path}: is annotated with {archive.uncertainty}, the snapshot wants {generator.measure.name}; "
            "give the run's own data with --data"
        )
    if archive.kind == "images" and (archive.img_channels, archive.img_resolution) != _shape(generator):
        channels, size = _shape(generator)
        raise UserError(
            f"{archive.path}: holds {archive.img_channels}-channel images of {archive.img_resolution} pixels, the "
            f"snapshot makes {channels}-channel ones of {size}; give the run's own data with --data"
        )
    if archive.content_sha256 != (info.get("data") or {}).get("sha256"):
        more = _other_classifier(generator, archive)
        notes.append(f"{archive.path} is not the data that the run was trained on{more}")
    return archive


def _other_classifier(generator: ConditionalGenerator, archive: Archive) -> str:
    """What is to be said where the archive's levels are those of another classifier than the generator's."""
    own, data = generator.classifier, archive.classifier_bytes
    if own is None or data is None:
        return ""
    other = FrozenClassifier.from_bytes(data, str(archive.path))
    alike = replace(own.spec, report={}) == replace(other.spec, report={}) and own.fingerprint() == other.fingerprint()
    if alike:
        return ""
    return (
        "; its levels are by another classifier, recalibration or range than the network's, so reals and fakes do not "
        "compare: annotate it with --classifier and the run's own archive"
    )


def _shape(generator: ConditionalGenerator) -> tuple[int, int]:
    G = generator.G
    return (int(G.img_channels), int(G.img_resolution)) if generator.kind == "images" else (2, 0)

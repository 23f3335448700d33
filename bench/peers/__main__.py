"""`python -m bench.peers`: let dotbias and other libraries take turns on MovieLens 100k, and write peers.json."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.peers import declared
from bench.peers.conversation import PeerError, Runner, export
from bench.peers.environments import NoEnvironmentError, python_of
from lesson.data import CollabData, DataError, load_movielens
from studies.evidence import peers as evidence
from studies.evidence import provenance
from studies.evidence.schema import DataUsed, ResultsError
from studies.lab.sweep import shown_progress

FILE = "peers.json"
NAMES = [peer.name for peer in declared.PEERS]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(
    help="dotbias and other libraries on the same split of MovieLens 100k: RMSE against seconds of training.\n\n"
    "Each library gets an environment of its own under .tox/peers, kept for the next time; one that cannot be made is "
    "reported and left out. They take turns, epoch by epoch or fit by fit; imports, compilation and a first fit of one "
    "epoch come before, evaluation is not timed. Leave the machine alone meanwhile. Stop with Ctrl-C and start again "
    "at will: what a library has finished for a seed is kept.\n\n"
    f"Leaves DIR/{FILE}; `python -m reports` draws the page. Takes about a quarter of an hour on two cores, and some "
    "minutes more the first time, for the environments."
)
def main(
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds for everybody; default: 20 for the fast, 3 or 5 for the slow.")
    ] = None,
    peers: Annotated[str | None, typer.Option(help=f"Some of {', '.join(NAMES)}, with commas; default: all.")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where to.")] = Path("results"),
) -> None:
    """Measure, and say where the results are."""
    unknown = sorted(set(peers.split(",")) - set(NAMES)) if peers else []
    if unknown:
        _fail(f"--peers: there is no {', '.join(unknown)}; there are {', '.join(NAMES)}")
    chosen = [peer for peer in declared.PEERS if not peers or peer.name in peers.split(",")]
    command = provenance.command("bench.peers", sys.argv[1:])
    try:
        outcome = measure(chosen, load_movielens(), results, command, seeds)
    except (DataError, ResultsError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or results}: {error.strerror}; is the folder of results right, writable, not full?")
    except KeyboardInterrupt:
        print("\nStopped. What is finished is kept; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    for peer in outcome.peers:
        if peer.failure:
            print(f"left out: {peer.title}: {peer.failure}", file=sys.stderr)
    print(f"{results / FILE}; `python -m reports` draws the page.")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def measure(
    peers: Sequence[declared.Peer], data: CollabData, folder: Path, command: str, seeds: int | None = None
) -> evidence.PeerResults:
    """Let `peers` take turns, a round for each seed, and write what is known after every finished row.

    Raises:
        ResultsError: the folder holds results that these cannot be added to.
    """
    results = _start(peers, data, folder / FILE, command)
    records = {peer.name: peer for peer in results.peers}
    planned = [(peer, seed) for peer in peers for seed in range(seeds or peer.seeds)]
    missing = [(peer, seed) for peer, seed in planned if seed not in {row.seed for row in records[peer.name].rows}]
    runners: dict[str, Runner] = {}

    def keep() -> None:
        results.finished = _now()
        evidence.write_peers(results, folder / FILE)

    with tempfile.TemporaryDirectory(prefix="peers-") as aside, shown_progress("fits") as progress:
        ratings = Path(aside) / "ratings.npz"
        export(data, ratings)
        try:
            for peer in {peer.name: peer for peer, _ in missing}.values():
                print(f"{peer.title}: environment and warm-up", file=sys.stderr)
                try:
                    python = python_of(peer.requirements)
                    runners[peer.name] = runner = Runner(peer, python, ratings, results.threads)
                    _introduce(records[peer.name], runner)
                    list(runner.fit(seed=0, epochs=1))
                except (NoEnvironmentError, PeerError) as failure:
                    records[peer.name].failure = str(failure)
            done = 0
            for seed in sorted({seed for _, seed in missing}):
                fits = {
                    peer.name: points_of(runners[peer.name], seed, peer.epochs)
                    for peer, its in missing
                    if its == seed and records[peer.name].failure is None
                }
                began = _now()
                for name, points in take_turns(fits, first=seed):
                    if isinstance(points, PeerError):
                        records[name].failure = str(points)
                    else:
                        row = evidence.Row(seed=seed, round=began, commit=results.commit, points=points)
                        records[name].rows.append(row)
                    keep()
                    done += 1
                    progress(done, len(missing))
        finally:
            for runner in runners.values():
                runner.stop()
    keep()
    return results


def points_of(runner: Runner, seed: int, lengths: Sequence[int]) -> Iterator[evidence.Point]:
    """The points of a fit for each number of epochs."""
    for epochs in lengths:
        yield from runner.fit(seed, epochs)


def take_turns(
    fits: Mapping[str, Iterator[evidence.Point]], first: int
) -> Iterator[tuple[str, list[evidence.Point] | PeerError]]:
    """A point of each in turn, until all are through; whoever is yields its name with all its points, or its failure.

    Args:
        fits: for each peer's name its points, computed as they are asked for.
        first: who begins, counted around: nobody shall always follow the same one.
    """
    names = list(fits)
    names = names[first % len(names) :] + names[: first % len(names)] if names else []
    points: dict[str, list[evidence.Point]] = {name: [] for name in names}
    while names:
        for name in list(names):
            try:
                points[name].append(next(fits[name]))
            except StopIteration:
                names.remove(name)
                yield name, points[name]
            except PeerError as failure:
                names.remove(name)
                yield name, failure


def _start(peers: Sequence[declared.Peer], data: CollabData, path: Path, command: str) -> evidence.PeerResults:
    """What is there already and still holds, or nothing yet."""
    commit, dirty = provenance.commit()
    results = evidence.PeerResults(
        command=command,
        commit=commit,
        dirty=dirty,
        started=_now(),
        finished=_now(),
        threads=provenance.cores(),
        machine=evidence.Machine(**provenance.machine()),
        data=DataUsed(
            key="movielens",
            name=data.name,
            checksum=data.checksum,
            size=data.ratings.origin.size | {"train": len(data.train), "valid": len(data.valid)},
            terms=data.ratings.terms,
            citation=data.ratings.citation,
        ),
        peers=[
            evidence.Peer(
                name=peer.name,
                title=peer.title,
                settings=dict(peer.settings),
                epochs=list(peer.epochs),
                note=peer.note,
            )
            for peer in peers
        ],
    )
    if not path.exists():
        return results
    earlier = evidence.read_peers(path)
    for what, is_, was in (
        ("data", results.data.checksum, earlier.data.checksum),
        ("processor", results.machine.cpu, earlier.machine.cpu),
        ("number of threads", results.threads, earlier.threads),
    ):
        if is_ != was:
            raise ResultsError(f"{path}: measured with another {what} ({was}, now {is_}). Give another --results.")
    done = {peer.name: peer for peer in earlier.peers}
    for peer in results.peers:
        before = done.pop(peer.name, None)
        if before and (before.settings, before.epochs) == (peer.settings, peer.epochs):
            peer.rows, peer.versions, peer.drawn = before.rows, before.versions, before.drawn
    results.peers += done.values()
    results.started, results.dirty = earlier.started, results.dirty or earlier.dirty
    return results


def _introduce(record: evidence.Peer, runner: Runner) -> None:
    """Take over what a peer says of itself."""
    if record.rows and record.versions != runner.versions:
        raise PeerError(f"measured with {record.versions} before, now with {runner.versions}: set {FILE} aside")
    record.versions = runner.versions
    record.drawn = evidence.Drawn(**runner.drawn) if runner.drawn else None


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "milliseconds")


if __name__ == "__main__":
    app()

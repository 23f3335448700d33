"""`python -m bench.peers`: runs dotbias and other libraries in turns on MovieLens 100k, and writes peers*.json."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import typer

from bench.peers import declared
from bench.peers.conversation import PeerError, Runner, export, export_everything
from bench.peers.environments import NoEnvironmentError, python_of
from lesson.data import CollabData, DataError
from studies.evidence import peers as evidence
from studies.evidence import provenance
from studies.evidence.peers import Splits
from studies.evidence.schema import DataUsed, ResultsError
from studies.lab.sweep import shown_progress

NAMES = list(dict.fromkeys(peer.name for one in declared.COMPARISONS.values() for peer in one.peers))

# What a file says of the run that made its last row.
OF_ROWS = ("command", "commit", "dirty", "machine")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(
    help="dotbias and other libraries on the same split of MovieLens 100k: RMSE against seconds of training.\n\n"
    "--splits one, the default, has one split (80/20) and many seeds. It shows how long each library takes to reach an "
    "RMSE. --splits fresh has five splits (90/10) and --splits fifths has GroupLens’ u1 to u5, with one fit for each "
    "split of dotbias, cornac, LensKit and myFM: they show how far each one goes. --splits everything has u1 alone, "
    "with the times of ratings and what is known about users and films, for dotbias and myFM.\n\n"
    "Each library gets its own environment under .tox/peers, kept for the next time; if one cannot be made, its "
    "library is reported and left out. They take turns, epoch by epoch or fit by fit. Imports, compilation, a first "
    "fit and evaluation are not timed. Do not use the machine meanwhile. Stop with Ctrl-C and start again at any time: "
    "finished seeds of a library are kept.\n\n"
    "Writes DIR/peers.json, peers-fresh.json, peers-fifths.json or peers-everything.json; `python -m reports` draws "
    "one page of them. One split takes about a quarter of an hour on two cores, five splits take eight minutes, "
    "everything known takes ten; a few minutes more the first time, for the environments."
)
def main(
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds per library; default: 20 for fast, 3 or 5 for slow ones.")
    ] = None,
    peers: Annotated[str | None, typer.Option(help=f"Some of {', '.join(NAMES)}, with commas; default: all.")] = None,
    splits: Annotated[Splits, typer.Option(help="The splits, as above.")] = "one",
    results: Annotated[Path, typer.Option(metavar="DIR", help="The folder for results.")] = Path("results"),
) -> None:
    """Measure, and print where the results are."""
    unknown = sorted(set(peers.split(",")) - set(NAMES)) if peers else []
    if unknown:
        _fail(f"--peers: unknown {', '.join(unknown)}; there are {', '.join(NAMES)}")
    comparison = declared.COMPARISONS[splits]
    if seeds and comparison.most and seeds > comparison.most:
        _fail(f"--seeds {seeds}: --splits {splits} has {comparison.most} splits, one for each seed")
    if peers and (absent := sorted(set(peers.split(",")) - {peer.name for peer in comparison.peers})):
        _fail(
            f"--peers: {', '.join(absent)} is not compared with --splits {splits}; "
            f"there are {', '.join(peer.name for peer in comparison.peers)}"
        )
    chosen = [peer for peer in comparison.peers if not peers or peer.name in peers.split(",")]
    command = provenance.command("bench.peers", sys.argv[1:])
    try:
        outcome = measure(chosen, comparison.split, results / comparison.file, command, seeds, splits, comparison.known)
    except (DataError, ResultsError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or results}: {error.strerror}; check that --results is right, writable and not full")
    except KeyboardInterrupt:
        print("\nStopped. Finished seeds are kept; the same command continues from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    for peer in outcome.peers:
        if peer.failure:
            print(f"left out: {peer.title}: {peer.failure}", file=sys.stderr)
    print(f"{results / comparison.file}; `python -m reports` draws the page.")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def measure(
    peers: Sequence[declared.Peer],
    split: Callable[[int], CollabData],
    path: Path,
    command: str,
    seeds: int | None = None,
    splits: Splits = "one",
    known: Callable[[CollabData], Mapping[str, np.ndarray]] | None = None,
) -> evidence.PeerResults:
    """Let `peers` take turns, one round per seed, and write the results after every finished row.

    Args:
        peers: the peers.
        split: the data of a seed; the same object for every seed if there is one split.
        path: the file.
        command: for the file.
        seeds: how many, or each peer's own number.
        splits: the name of the splits.
        known: what is known beside ids and ratings, for the runners that ask for everything.

    Raises:
        ResultsError: the file has results that these cannot be added to.
    """
    results = _start(peers, split(0), command, splits)
    now = {name: getattr(results, name) for name in OF_ROWS}
    if path.exists():
        _continue(results, evidence.read_peers(path), path)
        now["dirty"] = now["dirty"] or results.dirty
    records = {peer.name: peer for peer in results.peers}
    planned = [(peer, seed) for peer in peers for seed in range(seeds or peer.seeds)]
    missing = [(peer, seed) for peer, seed in planned if seed not in {row.seed for row in records[peer.name].rows}]
    if not missing:
        return results
    runners: dict[str, Runner] = {}

    def stop() -> None:
        for runner in runners.values():
            runner.stop()
        runners.clear()

    with tempfile.TemporaryDirectory(prefix="peers-") as aside, shown_progress("fits") as progress:
        ratings = Path(aside) / "ratings.npz"
        data: CollabData | None = None
        done = 0
        try:
            for seed in sorted({seed for _, seed in missing}):
                if split(seed) is not data:
                    stop()  # they have read the ratings of another split
                    data = split(seed)
                    export(data, ratings)
                    if known:
                        export_everything(known(data), ratings)
                for peer in [peer for peer, its in missing if its == seed and peer.name not in runners]:
                    if records[peer.name].failure is None:
                        _warm_up(peer, records[peer.name], runners, ratings, results.threads)
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
                        for field, value in (now | {"finished": _now()}).items():
                            setattr(results, field, value)
                        row = evidence.Row(seed=seed, round=began, commit=results.commit, points=points)
                        records[name].rows.append(row)
                    evidence.write_peers(results, path)
                    done += 1
                    progress(done, len(missing))
        finally:
            stop()
    evidence.write_peers(results, path)  # with failures, of which no row tells
    return results


def _warm_up(
    peer: declared.Peer, record: evidence.Peer, runners: dict[str, Runner], ratings: Path, threads: int
) -> None:
    """Start a peer and let it fit once; a failure is recorded."""
    print(f"{peer.title}: environment and warm-up", file=sys.stderr)
    try:
        runners[peer.name] = runner = Runner(peer, python_of(peer.requirements), ratings, threads)
        _introduce(record, runner)
        list(runner.fit(seed=0, epochs=1))
    except (NoEnvironmentError, PeerError) as failure:
        record.failure = str(failure)


def points_of(runner: Runner, seed: int, lengths: Sequence[int]) -> Iterator[evidence.Point]:
    """The points of one fit per number of epochs."""
    for epochs in lengths:
        yield from runner.fit(seed, epochs)


def take_turns(
    fits: Mapping[str, Iterator[evidence.Point]], first: int
) -> Iterator[tuple[str, list[evidence.Point] | PeerError]]:
    """Compute one point of each in turn; yields each finished peer's name with all its points, or its failure.

    Args:
        fits: each peer's points by its name, computed lazily.
        first: the index of the peer that begins; rounds differ, so that no peer always follows the same one.
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


def _start(peers: Sequence[declared.Peer], data: CollabData, command: str, splits: Splits) -> evidence.PeerResults:
    """Results without rows."""
    commit, dirty = provenance.commit()
    return evidence.PeerResults(
        command=command,
        commit=commit,
        dirty=dirty,
        started=_now(),
        finished=_now(),
        threads=provenance.cores(),
        splits=splits,
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


def _continue(results: evidence.PeerResults, earlier: evidence.PeerResults, path: Path) -> None:
    """Take over the earlier rows that are still valid, and what was said of them until there is a new row.

    Raises:
        ResultsError: rows cannot be added to these.
    """
    for what, is_, was in (
        ("data", results.data.checksum, earlier.data.checksum),
        ("processor", results.machine.cpu, earlier.machine.cpu),
        ("number of threads", results.threads, earlier.threads),
        ("kind of split", results.splits, earlier.splits),
    ):
        if is_ != was:
            raise ResultsError(f"{path}: measured with another {what} ({was}, now {is_}). Give another --results.")
    done = {peer.name: peer for peer in earlier.peers}
    for peer in results.peers:
        before = done.pop(peer.name, None)
        if before and (before.settings, before.epochs) == (peer.settings, peer.epochs):
            peer.rows, peer.versions, peer.drawn = before.rows, before.versions, before.drawn
    results.peers += done.values()
    for name in ("started", *OF_ROWS, "finished"):
        setattr(results, name, getattr(earlier, name))


def _introduce(record: evidence.Peer, runner: Runner) -> None:
    """Record what a runner reports about itself."""
    if record.rows and record.versions != runner.versions:
        raise PeerError(f"measured with {record.versions} before, now with {runner.versions}: rename the file")
    record.versions = runner.versions
    record.drawn = evidence.Drawn(**runner.drawn) if runner.drawn else None


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "milliseconds")


if __name__ == "__main__":
    app()

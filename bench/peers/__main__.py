"""The command: `python -m bench.peers [ROW …]`; see the package's own words."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.peers.match import Contender, Entry, Failed, Place, Played, best_of, match, playing
from bench.peers.work import WORKS, Material
from bench.recipe import machine
from thinkery import __version__
from thinkery.model.gguf import convert
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer

RESULT = Path(__file__).parents[1] / "results" / "peers.json"
CACHE = Path.home() / ".cache" / "thinkery-bench"
PREBUILT = Path("node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64")
"""Where npm puts llama.cpp's libraries."""
TRL = (
    Entry("trl", ("weights=bfloat16", "micro=4")),
    Entry("trl", ("weights=bfloat16", "micro=8", "attention=eager")),
    Entry("trl", ("weights=bfloat16", "micro=4", "cache=static")),
    Entry("trl", ("weights=bfloat16", "micro=4", "checkpointing=yes")),
    Entry("trl", ("weights=float32", "micro=4")),
)
TRL_HUGE = (
    Entry("trl", ("weights=bfloat16", "micro=4", "cache=static", "pages=huge")),
    Entry("trl", ("weights=bfloat16", "micro=8", "cache=static", "pages=huge")),
)
TRL_SMALL = {
    micro: Entry("trl", ("weights=bfloat16", f"micro={micro}", "checkpointing=yes")) for micro in (1, 2, 4, 8)
}
"""TRL at its smallest for each micro-batch: everything in bfloat16, activations computed again."""
OURS = Entry("ours")
SMALL = Entry("ours", ("weights=bfloat16", "micro=640", "activations=recomputed"))
"""Ours at its smallest."""
INT8 = Entry("ours", ("quantization=int8",))
TRL_SFT = (
    Entry("trl", ("weights=bfloat16", "micro=1")),
    Entry("trl", ("weights=bfloat16", "micro=2")),
    Entry("trl", ("weights=bfloat16", "micro=1", "packing=yes")),
    Entry("trl", ("weights=bfloat16", "micro=1", "attention=eager")),
    Entry("trl", ("weights=bfloat16", "micro=1", "checkpointing=yes")),
    Entry("trl", ("weights=bfloat16", "micro=2", "pages=huge")),
    Entry("trl", ("weights=bfloat16", "micro=1", "packing=yes", "pages=huge")),
)
HF = (Entry("hf", ("cache=dynamic",)), Entry("hf", ("cache=static",)))
HF_HUGE = (Entry("hf", ("cache=dynamic", "pages=huge")), Entry("hf", ("cache=static", "pages=huge")))
VLLM = ((), ("eager=yes",), ("pages=huge",))
EQUAL, QUANTISED = ("BF16", "F16"), ("Q8_0", "Q4_0")
"""Number formats of .gguf files: those with the precision that ours computes in, and coarser ones."""
OPENVINO = {
    "F16": (("precision=bf16", "keys=bf16"), ("precision=bf16", "keys=f16")),
    "Q8_0": (("precision=bf16", "keys=u8"),),
    "Q4_0": (("precision=bf16", "keys=u8"),),
}
OPENVINO_EXACT = "F16", ("precision=f32", "keys=f32")
LLAMACPP_EXACT = "F32", ("flash=off", "keys=F32", "cache=streams", "draw=one")
STREAMS = ("keys=F16", "cache=streams", "draw=threads")
LLAMACPP = {
    "BF16": (
        ("flash=on", *STREAMS),
        ("flash=off", *STREAMS),
        ("flash=on", "keys=BF16", "cache=streams", "draw=threads"),
        ("flash=on", "keys=F16", "cache=unified", "draw=threads"),
        ("flash=on", "keys=F16", "cache=streams", "draw=graph"),
    ),
    "F16": (("flash=on", *STREAMS),),
    "Q8_0": (("flash=on", *STREAMS),),
    "Q4_0": (("flash=on", *STREAMS),),
}
FIRST = 8
"""How many greedy tokens are compared in bfloat16, before rounding parts the texts."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    bar: float
    holds: bool
    unit: str
    higher: bool = True
    """Whether more is better."""
    details: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""
    """Which contender failed and why, where one did."""


@dataclass(frozen=True)
class Reader:
    """A peer that reads .gguf files."""

    name: str
    title: str
    there: Path
    """What is missing where it is not installed."""
    tries: Mapping[str, tuple[tuple[str, ...], ...]]
    """Its settings by the number format of the file."""
    exact: tuple[str, tuple[str, ...]]
    """Its settings for products in float32, after the format of a file that it reads: not all read F32."""
    python: str = sys.executable
    always: tuple[str, ...] = ()
    """Settings of every try."""

    def entries(self, files: Mapping[str, str], formats: Sequence[str]) -> list[Entry]:
        """All tries with files in these formats."""
        return [
            Entry(self.name, (f"file={files[kind]}", *settings, *self.always), self.python)
            for kind in formats
            for settings in self.tries.get(kind, ())
        ]


@dataclass(frozen=True)
class Bench:
    """What every row needs."""

    place: Place
    repeats: int
    patience_s: float
    vllm: Path
    readers: Sequence[Reader]
    """What reads .gguf files, installed or not."""
    files: Mapping[str, str]
    """The model as .gguf files, by number format; none where it does not come from one."""
    out: Path
    limits: dict[str, float]
    """The roofline: the most that was measured before a row until now, since a busy machine is slower."""
    parameters: int
    fastest: dict[tuple[Any, ...], Entry] = field(default_factory=dict)
    """By kind of work and candidates, which is fastest; found in the first row that they play in."""

    @property
    def on_cpu(self) -> bool:
        """Whether contenders compute on the CPU, which alone has products in int8, and uses huge pages."""
        return self.place.device == "cpu"

    def beside(
        self, work: str, candidates: Sequence[Entry], ours: Entry = OURS
    ) -> tuple[Played, Played, list[dict[str, Any]]]:
        """Ours and the fastest of the candidates, after their runs, and what the candidates took."""
        kind = WORKS[work].kind, *candidates
        known = self.fastest.get(kind)
        mine, theirs, tried = self.played(work, [known] if known else candidates, ours)
        if isinstance(theirs, Contender):
            self.fastest[kind] = theirs.entry
        return mine, theirs, tried

    def played(
        self, work: str, candidates: Sequence[Entry], ours: Entry = OURS
    ) -> tuple[Played, Played, list[dict[str, Any]]]:
        """The same without asking what was fastest before; ours plays also where all candidates fail."""
        try:
            fastest, tried = best_of(candidates, work, self.place)
        except Failed as error:
            return self.alone(work, ours), error, []
        mine, theirs = match([ours, fastest], work, self.place, self.repeats, self.patience_s)
        return mine, theirs, tried

    def alone(self, work: str, ours: Entry = OURS) -> Played:
        """Ours after its runs."""
        return match([ours], work, self.place, self.repeats, self.patience_s)[0]

    def look(self) -> None:
        """Measure the roofline once more."""
        found = answer_of("bench.peers.roofline", str(self.place.threads), self.place.device)
        self.limits.update({name: max(value, self.limits.get(name, 0.0)) for name, value in found.items()})

    def roof(self, flops_per_token: float) -> float:
        """Tokens a second if everything were matrix products at the measured peak."""
        return self.limits["bf16_gflops"] * 1e9 / flops_per_token


def faster(name: str, bar: float, ours: Played, theirs: Played, tried: list[dict[str, Any]]) -> Row:
    """Tokens per second beside a peer's."""
    if isinstance(ours, Failed) or isinstance(theirs, Failed):
        return broken(name, bar, ours, theirs)
    ratio = ours.tokens_per_s / theirs.tokens_per_s
    details = {"ours": ours.report(), "peer": theirs.report(), "tried": tried}
    return Row(name, ours.tokens_per_s, theirs.tokens_per_s, ratio, bar, ratio >= bar, "tokens/s", True, details)


def fast(name: str, ours: Played) -> Row:
    """Tokens per second where no peer is installed."""
    if isinstance(ours, Failed):
        return broken(name, 0.0, ours)
    return Row(name, ours.tokens_per_s, None, None, 0.0, True, "tokens/s", True, {"ours": ours.report()})


def near(name: str, bar: float, ours: Played, roof: float) -> Row:
    """Tokens per second beside what the machine could do."""
    if isinstance(ours, Failed):
        return broken(name, bar, ours)
    ratio = ours.tokens_per_s / roof
    return Row(name, ours.tokens_per_s, roof, ratio, bar, ratio >= bar, "tokens/s", True, {"ours": ours.report()})


def within(name: str, limit: float, ours: Played) -> Row:
    """Peak memory, under a limit."""
    if isinstance(ours, Failed):
        return broken(name, limit, ours, unit="GB")
    peak = ours.report()["peak_gb"]
    return Row(name, peak, None, None, limit, peak <= limit, "GB", False, {"ours": ours.report()})


def smaller(name: str, ours: Played, theirs: Played) -> Row:
    """Peak memory, less than a peer's."""
    if isinstance(ours, Failed) or isinstance(theirs, Failed):
        return broken(name, 0.0, ours, theirs, unit="GB")
    mine, other = ours.report(), theirs.report()
    ratio = mine["peak_gb"] / other["peak_gb"]
    return Row(name, mine["peak_gb"], other["peak_gb"], ratio, other["peak_gb"], ratio < 1, "GB", False,
               {"ours": mine, "peer": other})  # fmt: skip


def broken(name: str, bar: float, *who: Played, unit: str = "tokens/s") -> Row:
    """A row of which somebody has failed, with what was measured of the other: ours first, then the peer."""
    reports = [each.report() if isinstance(each, Contender) else None for each in who]
    measure = "tokens_per_s" if unit == "tokens/s" else "peak_gb"
    ours, peer = (each[measure] if each else None for each in (*reports, None)[:2])
    details = {side: each for side, each in zip(("ours", "peer"), reports, strict=False) if each}
    why = "; ".join(str(each) for each in who if isinstance(each, Failed))
    return Row(name, ours, peer, None, bar, False, unit, unit == "tokens/s", details, why)


def sample_64(bench: Bench) -> list[Row]:
    """8 prompts with 8 samples each."""
    ours, hf, tried = bench.beside("sample-64", HF)
    rows = [
        near("sampling 64, share of the matrix limit", 0.5, ours, bench.roof(2 * bench.parameters)),
        faster("sampling 64 beside transformers", 4.0, ours, hf, tried),
    ]
    if bench.on_cpu:
        rows += [
            faster("sampling 64 beside transformers in huge pages", 4.0, *bench.beside("sample-64", HF_HUGE)),
            faster("sampling 64 in int8 beside bfloat16", 0.0, *bench.beside("sample-64", [OURS], INT8)),
        ]
    return [*rows, *versus_vllm(bench, "sample-64", "sampling 64 beside vLLM", 1.5)]


def versus_vllm(bench: Bench, work: str, name: str, bar: float) -> list[Row]:
    """A row where vLLM is installed; none, and a word, where it is not."""
    if not bench.vllm.exists():
        print(f"    {name}: not measured, no {bench.vllm} (see docs/performance.md)")
        return []
    return [faster(name, bar, *bench.beside(work, [Entry("vllm", each, str(bench.vllm)) for each in VLLM]))]


def trl_is_here(name: str) -> bool:
    """Whether TRL is installed, and a word where it is not."""
    found = importlib.util.find_spec("trl") is not None
    if not found:
        print(f"    {name} beside TRL: not measured, TRL is not installed")
    return found


def versus_files(bench: Bench, work: str, count: str) -> list[Row]:
    """Rows beside what reads .gguf files, with the precision of ours and, reported beside, quantised: ours to int8."""
    rows = []
    for reader in playable(bench):
        title = f"sampling {count} beside {reader.title}"
        for told, formats, ours, bar in ((title, EQUAL, OURS, 1.0), (f"{title}, quantised", QUANTISED, INT8, 0.0)):
            entries = reader.entries(bench.files, formats)
            rows.append(faster(told, bar, *bench.played(work, entries, ours)))
    return rows


def same_files(bench: Bench) -> list[Row]:
    """Whether what reads .gguf files says what ours does: whole texts in float32, the first tokens in bfloat16."""
    rows = []
    for reader in playable(bench):
        rounded = reader.entries(bench.files, EQUAL)[0]
        for what, ours, theirs, tokens, bar in (
            ("in float32", *in_float32(bench, reader), None, 1.0),
            (f"in bfloat16, first {FIRST} tokens", OURS, rounded, FIRST, 0.75),
        ):
            pairs = zip(greedy(bench, ours), greedy(bench, theirs), strict=True)
            equal = fmean(mine[:tokens] == other[:tokens] for mine, other in pairs)
            told = f"greedy outputs equal to {reader.title}'s {what}"
            rows.append(Row(told, equal, None, None, bar, equal >= bar, "share"))
    return rows


def in_float32(bench: Bench, reader: Reader) -> tuple[Entry, Entry]:
    """Ours and a reader's products in float32, on the weights of the same file."""
    kind, settings = reader.exact
    file = Path(bench.files[kind])
    ours = Entry("ours", ("dtype=float32", f"model={converted(file)}"))
    return ours, Entry(reader.name, (f"file={file}", *settings, *reader.always), reader.python)


def playable(bench: Bench) -> list[Reader]:
    """The readers that are installed, and a word of those that are not."""
    for reader in bench.readers:
        if not reader.there.exists():
            print(f"    beside {reader.title}: not measured, no {reader.there} (see docs/performance.md)")
    return [reader for reader in bench.readers if reader.there.exists() and bench.files]


def greedy(bench: Bench, entry: Entry) -> list[list[int]]:
    """The likeliest tokens after each prompt, for each of its samples."""
    with playing(entry, "greedy", bench.place) as contender:
        contender.run()
        return contender.answers[0]["texts"]


def sample_few(bench: Bench, work: str, count: str) -> list[Row]:
    """A few sequences beside each peer."""
    candidates = HF + HF_HUGE if bench.on_cpu else HF
    row = faster(f"sampling {count} beside transformers", 1.0, *bench.beside(work, candidates))
    return [row, *versus_vllm(bench, work, f"sampling {count} beside vLLM", 1.0)]


def grpo(bench: Bench) -> list[Row]:
    """One update end to end."""
    memory = "GRPO update, peak memory"
    if not trl_is_here("GRPO update"):
        ours = bench.alone("grpo")
        return [fast("GRPO update", ours), within(memory, 4.0, ours)]
    ours, theirs, tried = bench.beside("grpo", TRL)
    rows = [faster("GRPO update beside TRL", 4.0, ours, theirs, tried)]
    if bench.on_cpu:
        rows.append(faster("GRPO update beside TRL in huge pages", 4.0, *bench.beside("grpo", TRL_HUGE)))
    rows.append(within(memory, 4.0, ours))
    if bench.on_cpu:
        name = "GRPO update, sampled in int8, beside TRL in huge pages"
        rows.append(faster(name, 4.0, *bench.beside("grpo", TRL_HUGE, INT8)))
    return rows


def grpo_memory(bench: Bench) -> list[Row]:
    """Peak memory over two updates, so that there are moments: ours at its smallest beside TRL at its smallest."""
    rows = []
    if not trl_is_here("GRPO update at its smallest"):
        return rows
    for micro, entry in TRL_SMALL.items():
        ours, theirs = match([SMALL, entry], "grpo", bench.place, 2, math.inf)
        rows += [
            smaller(f"GRPO update at its smallest, beside TRL's with micro-batches of {micro}", ours, theirs),
            faster(f"speed of that, beside TRL's with micro-batches of {micro}", 0.0, ours, theirs, []),
        ]
    return rows


def grpo_uneven(bench: Bench) -> list[Row]:
    """The same with lengths from 32 to 512."""
    name = "GRPO update of uneven lengths"
    if not trl_is_here(name):
        return [fast(name, bench.alone("grpo-uneven"))]
    return [faster(f"{name} beside TRL", 5.0, *bench.beside("grpo-uneven", TRL_HUGE))]


def sft(bench: Bench) -> list[Row]:
    """Texts of 64 to 1024 tokens."""
    share, roof = "SFT, share of the matrix limit", bench.roof(6 * bench.parameters)
    if not trl_is_here("SFT"):
        return [near(share, 0.6, bench.alone("sft"), roof)]
    ours, theirs, tried = bench.beside("sft", TRL_SFT)
    return [faster("SFT beside TRL", 1.5, ours, theirs, tried), near(share, 0.6, ours, roof)]


def same(bench: Bench) -> list[Row]:
    """Equal to transformers in float32."""
    found = answer_of("bench.peers.same", *bench.place.arguments[:2], bench.place.device)
    return [
        Row("greedy outputs equal to transformers", found["greedy"], None, None, 1.0, found["greedy"] == 1.0, "share"),
        Row("log-probabilities", found["logprob"], None, None, 1e-3, found["logprob"] <= 1e-3, "nats", False),
        Row("gradients", found["gradient"], None, None, 1e-3, found["gradient"] <= 1e-3, "relative", False),
    ]


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "same": same,
    "sample-64": sample_64,
    "sample-8": lambda bench: sample_few(bench, "sample-8", "8"),
    "sample-1": lambda bench: sample_few(bench, "sample-1", "1"),
    "files-same": same_files,
    "files-64": lambda bench: versus_files(bench, "sample-64", "64"),
    "files-8": lambda bench: versus_files(bench, "sample-8", "8"),
    "files-1": lambda bench: versus_files(bench, "sample-1", "1"),
    "sft": sft,
    "grpo": grpo,
    "grpo-memory": grpo_memory,
    "grpo-uneven": grpo_uneven,
}


def main() -> None:
    """Run the rows asked for, print them, and keep them beside those that were there; ends with 1 where some failed."""
    args = arguments()
    wanted = args.rows or list(ROWS)
    bench = prepared(args)
    failed = 0
    for name in wanted:
        rows = rows_of(name, bench)
        keep(name, rows, bench)
        for row in rows:
            print(line(row))
            if row.failed:
                print(f"{row.name}: {row.failed}", file=sys.stderr)
                failed = 1
    sys.exit(failed)


def rows_of(name: str, bench: Bench) -> list[Row]:
    """What was measured, and what failed."""
    try:
        bench.look()
        print(f"{name}; limits: {bench.limits}")
        return ROWS[name](bench)
    except RuntimeError as error:
        return [Row(name, None, None, None, 0.0, False, "", failed=str(error))]


def arguments() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(description="Thinkery beside its peers, on this machine.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender after its warm-up")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds of runs after which a slow contender does no more"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every contender")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--vllm", type=Path, default=CACHE / "vllm" / "bin" / "python", help="Python that has vLLM")
    parser.add_argument(
        "--openvino", type=Path, default=CACHE / "openvino" / "bin" / "python", help="Python that has OpenVINO GenAI"
    )
    parser.add_argument("--llamacpp", type=Path, default=CACHE / "llamacpp", help="where npm has put llama.cpp")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return args


def prepared(args: argparse.Namespace) -> Bench:
    """The model as a folder, the words of the prompts."""
    folder = located(args.model)
    tokenizer, parameters = Tokenizer.load(folder), count_parameters(folder)
    material = CACHE / "material.json"
    material.parent.mkdir(parents=True, exist_ok=True)
    Material(str(folder), one_token_words(tokenizer)).save(material)
    place = Place(material, args.threads, args.device)
    return Bench(
        place,
        args.repeats,
        args.patience,
        vllm=args.vllm,
        readers=readers(args.openvino, args.llamacpp / PREBUILT),
        files=files_of(args.model),
        out=args.out,
        limits={},
        parameters=parameters,
    )


def readers(python: Path, libraries: Path) -> list[Reader]:
    """What reads .gguf files: OpenVINO GenAI of that Python, llama.cpp of that folder."""
    return [
        Reader("openvino", "OpenVINO", python, OPENVINO, OPENVINO_EXACT, str(python)),
        Reader("llamacpp", "llama.cpp", libraries, LLAMACPP, LLAMACPP_EXACT, always=(f"libraries={libraries}",)),
    ]


def files_of(model: str) -> dict[str, str]:
    """The same weights as .gguf files in the formats that contenders read, for a model that comes as one."""
    source = locate(model)
    if source.suffix != ".gguf":
        return {}
    from bench.peers.gguf import written  # which needs the package gguf

    return {kind: str(written(source, kind, CACHE)) for kind in ("F32", *EQUAL, *QUANTISED)}


def located(model: str) -> Path:
    """A Hugging Face folder; a .gguf file is converted once."""
    path = locate(model)
    return path if path.suffix != ".gguf" else converted(path)


def converted(path: Path) -> Path:
    """A .gguf file as a folder, made once."""
    folder = CACHE / path.name.removesuffix(".gguf")
    if not (folder / "model.safetensors").exists():
        convert(path, folder)
    return folder


def count_parameters(folder: Path) -> int:
    """How many weights there are; shared ones count once."""
    return sum(parameter.numel() for parameter in load_model(folder)[0].parameters())


def one_token_words(tokenizer: Tokenizer, count: int = 2000) -> list[int]:
    """Tokens that are a space and lower-case letters: joined to a text, they are read as the same tokens again."""
    pieces = ((id, tokenizer.decode([id])) for id in range(tokenizer.vocab_size))
    words = [
        id for id, text in pieces if text[:1] == " " and text[1:].isascii() and text[1:].isalpha() and len(text) > 3
    ]
    return words[:count]


def answer_of(module: str, *arguments: str) -> dict[str, float]:
    """What a program of ours prints last, in a process of its own; raises RuntimeError where that fails."""
    found = subprocess.run([sys.executable, "-m", module, *arguments], check=False, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise RuntimeError(f"{module} ended with exit code {found.returncode}; its words are above")
    return json.loads(found.stdout.splitlines()[-1])


def keep(name: str, rows: Sequence[Row], bench: Bench) -> None:
    """Write the rows of one name in the place of those that were there."""
    old = json.loads(bench.out.read_text())["rows"] if bench.out.exists() else []
    stamp = {"row": name, "date": date.today().isoformat(), "limits": dict(bench.limits)}
    every = [row for row in old if row["row"] != name] + [stamp | asdict(row) for row in rows]
    every.sort(key=lambda row: list(ROWS).index(row["row"]))
    found = {
        "date": date.today().isoformat(),
        "command": "python -m bench.peers",
        "machine": machine() | {"threads": bench.place.threads, "device": bench.place.device},
        "versions": {"thinkery": __version__} | versions(),
        "rows": every,
    }
    bench.out.parent.mkdir(parents=True, exist_ok=True)
    bench.out.write_text(json.dumps(found, indent=1) + "\n")


def versions() -> dict[str, str | None]:
    """Of what is installed here, None of what is not."""
    return {name: version(name) for name in ("torch", "transformers", "trl", "accelerate")}


def version(package: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def line(row: Row) -> str:
    """One line for the terminal."""
    ours = "not measured" if row.ours is None else f"{row.ours:.4g} {row.unit}"
    peer = "" if row.peer is None else f" beside {row.peer:.4g}"
    ratio = "" if row.ratio is None else f", ratio {row.ratio:.2f}"
    mark = "FAIL" if row.failed else "ok  " if row.holds else "MISS"
    return f"{mark} {row.name}: {ours}{peer}{ratio}, bar {row.bar:g}"


if __name__ == "__main__":
    main()

"""Making targets: from one clean fp32 file to every form asked for, each checked and run here.

The order is fixed: quantise (through the accuracy gate), compare with fp32, put the preprocessing
in where asked for, convert. A target that cannot be made here is an answer with its reason, and
one that cannot be run here is labelled unmeasured.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from factory.core.errors import InputError
from factory.core.files import sha256_bytes, sha256_file, write_atomic_bytes
from factory.core.progress import SILENT, Progress
from factory.core.temporary import TemporaryFolder
from factory.deployment.agreement import BOUNDS, Agreement, Outputs, compare
from factory.deployment.camera import embed_preprocessing, resized_shape
from factory.deployment.gate import Tuner, gate_int8
from factory.deployment.gate_contract import GateConfig, GateData, GateResult
from factory.deployment.half_repair import HalfRepair, repair_half
from factory.deployment.manifest import describe_file
from factory.deployment.metadata import Preprocessing
from factory.deployment.quiet import silenced
from factory.deployment.rounded import run_rounded
from factory.deployment.run_here import open_session, run_model, run_outputs
from factory.deployment.targets import Check, Target, find_target
from factory.deployment.targets.base import rewritten, with_precision
from factory.deployment.targets.onnx_fp16 import half_model

if TYPE_CHECKING:
    from factory.deployment.fine_tuning import Trainable

CAMERA_IMAGES = 8
CAMERA_SIGNAL_DB = 20.0  # resizing is rounded to 8 bits at other places than Pillow's


@dataclass
class Made:
    """One target of one model.

    Attributes:
        status: "ok", "refused" (by the gate), "missing" (cannot be made here) or "failed".
        repair: operators of a 16-bit file that were left in 32 bits; None where none had to be.
        agreement: outputs run here beside fp32 on the test pictures; None where nothing runs it.
        loaded_on: execution provider that loaded and ran the file here; "" when none did.
        unmeasured: why no latency measured here is this target's; "" when one may be.
        camera: the file with the preprocessing inside, fed with pixels, beside the same file
            without it, fed with pictures that Pillow and numpy prepared.
        plain: the ONNX file without the preprocessing that this one comes from.
    """

    target: Target
    status: str
    reason: str = ""
    files: list[Path] = field(default_factory=list)
    size_bytes: int = 0
    sha256: str = ""
    checks: list[Check] = field(default_factory=list)
    gate: GateResult | None = None
    repair: HalfRepair | None = None
    agreement: Agreement | None = None
    camera: Agreement | None = None
    loaded_on: str = ""
    unmeasured: str = ""
    plain: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether the file may leave."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "target": self.target.name,
            "precision": self.target.precision,
            "status": self.status,
            "reason": self.reason,
            "files": [path.name for path in self.files],
            "sizes_bytes": {path.name: path.stat().st_size for path in self.files},
            "sha256": self.sha256,
            "checks": [check.to_dict() for check in self.checks],
            "gate": None if self.gate is None else self.gate.to_dict(),
            "repair": None if self.repair is None else self.repair.to_dict(),
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "camera": None if self.camera is None else self.camera.to_dict(),
            "loaded_on": self.loaded_on,
            "unmeasured": self.unmeasured,
        }


class Maker:
    """Makes targets of one model; what several need is made once.

    Args:
        fp32: the clean fp32 file, metadata inside.
        data: pictures for calibration, choice and judgement.
        config: limit of the int8 gate.
        preprocessing: put into the graph when ``camera`` is given.
        camera: height and width of the camera pictures that the graph takes.
        progress: where long work reports.
        trainable: the torch network and its training pictures, for the gate's last step.
        not_trainable: why there is none.
    """

    def __init__(
        self,
        fp32: Path,
        data: GateData,
        config: GateConfig | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        camera: tuple[int, int] | None = None,
        progress: Progress = SILENT,
        trainable: Trainable | None = None,
        not_trainable: str = "",
    ) -> None:
        self.trainable, self.not_trainable = trainable, not_trainable
        self.fp32, self.data, self.config = fp32, data, config or GateConfig()
        self.preprocessing, self.camera, self.progress = preprocessing, camera, progress
        if camera is not None and preprocessing is None:
            raise InputError(
                "the model does not say how a picture becomes its input",
                fix="give --mean and --std, or export without --camera",
            )
        self._scratch = TemporaryFolder("targets")
        self._made: dict[str, Made] = {}
        self._reference: Outputs | None = None
        self._ranges: dict[str, dict[str, Any]] = {}  # by the model that was calibrated
        self._tuned: dict[Any, tuple[Path, dict[str, Any]]] = {}  # by the rounding simulated

    def __enter__(self) -> Maker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.remove()

    def make(self, target: Target, out: Path) -> Made:
        """Write ``target`` to ``out`` and tell everything that is known about it."""
        made = self._build(target)
        if not made.ok:
            made.files = []  # what is in the scratch folder does not leave
            return made
        files = []
        for path in made.files:
            name = path.name.replace(target.name, out.name.removesuffix(target.suffix), 1)
            write_atomic_bytes(out.with_name(name), path.read_bytes())
            files.append(out.with_name(name))
        made.files, made.size_bytes = files, files[0].stat().st_size
        made.sha256 = sha256_file(files[0])
        return made

    def _build(self, target: Target) -> Made:
        """The target's files in the scratch folder."""
        if target.name in self._made:
            return self._made[target.name]
        try:
            made = self._built(target)
        except InputError as error:
            made = Made(target, "failed", reason=str(error))
        self._made[target.name] = made
        return made

    def _built(self, target: Target) -> Made:
        why = target.missing()
        if why:
            return Made(target, "missing", reason=why, unmeasured=target.timing_here)
        folder = self._scratch.path / target.name
        folder.mkdir(exist_ok=True)
        out = folder / f"{target.name}{target.suffix}"
        made = Made(target, "ok", unmeasured=target.timing_here)
        if target.made_from:
            parent = self._build(find_target(target.made_from))
            if not parent.ok:
                return Made(target, parent.status, reason=parent.reason, gate=parent.gate)
            # What is judged without preprocessing is converted with it.
            made.files = target.write(parent.files[0], out)
            made.gate, made.plain = parent.gate, parent.plain
            self._run(target, made, inside=self.camera is not None)
        else:
            plain = folder / f"plain-{target.name}{target.suffix}"
            if not self._plain(target, plain, made):
                return made
            made.plain = plain
            self._run(target, made, inside=False)
            if target.precision == "fp16" and not made.ok:
                self._repair(target, plain, made)
            if self.camera is not None and made.ok:
                assert self.preprocessing is not None
                model = embed_preprocessing(onnx.load(plain), self.preprocessing, self.camera)
                write_atomic_bytes(out, model.SerializeToString(deterministic=True))
                made.files = [out]
                made.camera = self._camera_agreement(out, plain)
                if made.camera.signal_db < CAMERA_SIGNAL_DB:
                    made.status = "failed"
                    made.reason = (
                        f"with the preprocessing inside the outputs differ "
                        f"({made.camera.signal_db:.0f} dB)"
                    )
            else:
                write_atomic_bytes(out, plain.read_bytes())
                made.files = [out]
        made.checks = target.checks(made.files[0])
        broken = next((c for c in made.checks if not c.ok and "usability" not in c.name), None)
        if broken is not None and made.ok:
            made.status, made.reason = "failed", f"{broken.name}: {broken.detail}"
        return made

    def _plain(self, target: Target, out: Path, made: Made) -> bool:
        """The target's file without preprocessing; False when the gate refused it."""
        source = rewritten(self.fp32, target.rewrites)
        if target.flavour is None:
            with_precision(source, target.precision, target.name)
            before = out.with_name("before.onnx")
            before.write_bytes(source.SerializeToString(deterministic=True))
            made.files = target.write(before, out)
            return True
        digest = sha256_bytes(source.SerializeToString(deterministic=True))
        made.gate = gate_int8(
            source,
            self.data,
            self.config,
            target.flavour,
            run=partial(run_model, config=dict(target.session)),
            progress=self.progress,
            ranges=self._ranges.setdefault(digest, {}),
            tuner=None if self.trainable is None else self._tuner(target),
            no_tuner=self.not_trainable,
        )
        if made.gate.model is None:
            made.status, made.reason = "refused", made.gate.reason
            return False
        with_precision(made.gate.model, "int8", target.name)
        write_atomic_bytes(out, made.gate.model.SerializeToString(deterministic=True))
        made.files = [out]
        return True

    def _repair(self, target: Target, plain: Path, made: Made) -> None:
        """Leave in 32 bits what loses too much in 16."""
        assert made.agreement is not None
        before = plain.with_name("before.onnx")

        def convert(float_nodes: Collection[str]) -> onnx.ModelProto:
            with silenced():
                return half_model(onnx.load(before), float_nodes)

        made.repair = repair_half(
            onnx.load(before),
            convert,
            self.data.selection_images,
            self.data.test_images,
            self.data.test_labels,
            made.agreement,
            self.progress,
        )
        made.agreement, made.reason = made.repair.test, made.repair.reason
        if made.repair.model is not None:
            made.status, made.reason = "ok", ""
            model = with_precision(made.repair.model, target.precision, target.name)
            write_atomic_bytes(plain, model.SerializeToString(deterministic=True))
            open_session(plain)  # it loads as the one before did

    def _tuner(self, target: Target) -> Tuner:
        """Fine-tunes once for all targets that round alike."""
        from factory.deployment.fine_tuning import Rounding, tuned_onnx

        trainable, flavour = self.trainable, target.flavour
        assert trainable is not None
        assert flavour is not None

        def tune(steps: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
            rounding = Rounding.of(flavour, self.config.reduce_range)
            if rounding not in self._tuned:
                like = onnx.load(self.fp32)
                model, facts = tuned_onnx(trainable, like, rounding, steps, self.progress)
                path = self._scratch.path / f"tuned-{len(self._tuned)}.onnx"
                write_atomic_bytes(path, model.SerializeToString(deterministic=True))
                self._tuned[rounding] = (path, facts)
            path, facts = self._tuned[rounding]
            return rewritten(path, target.rewrites), facts

        return tune

    def _run(self, target: Target, made: Made, *, inside: bool) -> None:
        """Load the file here, run the test pictures, compare with fp32."""
        if not target.runs_here:
            return
        images = self.data.test_images
        if inside:
            assert made.plain is not None
            made.camera = self._camera_agreement(made.files[0], made.plain)
            made.loaded_on = target.runs_here
            return
        session = open_session(made.files[0], target.runs_here, dict(target.session))
        if target.precision == "fp16":
            outputs = run_rounded(onnx.load(made.files[0]), images)
        else:
            outputs = run_outputs(session, images)
        if self._reference is None:
            self._reference = run_model(self.fp32, images)
        made.loaded_on = target.runs_here
        made.agreement = compare(outputs, self._reference, self.data.test_labels)
        if made.gate is not None and made.gate.verdict == "fine-tuned":
            return  # another network, judged by its accuracy and beside its own fp32 form
        why = made.agreement.lacks(BOUNDS[target.precision])
        if why:
            made.status, made.reason = "failed", f"the outputs differ from fp32: {why}"

    def _camera_agreement(self, path: Path, plain: Path) -> Agreement:
        """Camera pixels through the file, beside Pillow and numpy and the file without."""
        assert self.camera is not None
        assert self.preprocessing is not None
        pixels = camera_pictures(self.camera, CAMERA_IMAGES)
        prepared = np.stack([prepare_picture(p, self.preprocessing) for p in pixels])
        return compare(run_model(path, pixels), run_model(plain, prepared))


def camera_pictures(camera: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    """Made-up camera pictures, uint8 [N,H,W,3]: blurred noise, so that neighbours are alike."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    size = (camera[1], camera[0])
    return np.stack(
        [np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in coarse]
    )


def prepare_picture(pixels_HWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """float32 [C,H,W] or [H,W,C] of one RGB picture, by Pillow and numpy, as the packaged program
    does it."""
    from PIL import Image

    picture = Image.fromarray(pixels_HWC)
    if preprocessing.colour == "grey":
        picture = picture.convert("L")
    height, width = preprocessing.size
    rows, columns = resized_shape(preprocessing, (picture.height, picture.width))
    if (columns, rows) != picture.size:
        picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    left, top = (columns - width) // 2, (rows - height) // 2
    values = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32)
    values = values[..., None] if values.ndim == 2 else values
    if preprocessing.colour == "BGR":
        values = values[..., ::-1]
    mean, std = (np.asarray(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    prepared = (values * np.float32(preprocessing.scale) - mean) / std
    if preprocessing.layout == "NCHW":
        prepared = prepared.transpose(2, 0, 1)
    return np.ascontiguousarray(prepared, np.float32)


def make_targets(maker: Maker, targets: Sequence[Target], folder: Path, stem: str) -> list[Made]:
    """Every target as ``<stem>-<target><suffix>`` in ``folder``, with a manifest beside each."""
    made = []
    for target in targets:
        one = maker.make(target, folder / f"{stem}-{target.name}{target.suffix}")
        if one.ok:
            manifest = describe_file(one.files[0], target.precision)
            path = one.files[0].with_name(one.files[0].name + ".manifest.json")
            manifest.save(path)
            one.files.append(path)
        made.append(one)
    return made

"""A slice editor for notebooks: set widths and skips per layer, see sizes and verdicts at once,
score what you see.

    editor = ml.SliceEditor("tiny")
    editor            # in a notebook: a slider for every layer
    editor.slice      # the slice as set
    editor.yaml()     # the same for a recipe

Needs the extra `matformer-lab[notebook]` (ipywidgets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.printable import shown
from matformer_lab.notebook.html import plan_html
from matformer_lab.parent.opening import TINY, open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.layer_runs import runs_of, written
from matformer_lab.slicing.notation.catalog import published_specs, resolve_slice
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.slicing.slice import Slice

if TYPE_CHECKING:
    import pandas as pd

STEPS: Final = 8
"""Slider steps: eighths of a layer's FFN, which in E4B are multiples of `hidden_size`."""

TINY_TASKS: Final = ("tiny_hellaswag", "tiny_boolq", "tiny_mmlu")
_FULL_ATTENTION: Final = "full_attention"


class SliceEditor:
    """One slider a layer of `parent`: its FFN width in eighths, 0 to skip the layer.

    `slice` and `plan` follow the sliders; an impossible setting is said under them and raises
    InputError when asked for. `score` runs a sweep into `out` (a temporary folder by default)
    over every slice scored so far, so only the new one is computed.
    """

    def __init__(
        self,
        parent: Parent | str | Path = TINY,
        start: str = "e4b",
        *,
        recipe: Mapping[str, Any] | None = None,
        out: Path | None = None,
    ) -> None:
        """`recipe`: keys of a recipe for scoring (tasks, dtype, limit, datasets, ...).

        Raises InputError for a parent or slice that cannot be read, and where ipywidgets is
        missing.
        """
        self.parent = parent if isinstance(parent, Parent) else open_parent(str(parent))
        self.out = Path(mkdtemp(prefix="slice-editor-")) / "sweep" if out is None else Path(out)
        self._recipe = _scoring_recipe(self.parent, recipe or {})
        self._scored: dict[str, dict[str, Any]] = {}
        self._w = _widgets()
        self._build(start)
        self.load(start)

    # --- what is set ---

    @property
    def steps(self) -> tuple[int, ...]:
        """Every layer's setting, in eighths of its FFN; 0 is skipped."""
        return tuple(int(slider.value) for slider in self.sliders)

    @property
    def spec(self) -> SliceSpec:
        """The slice as set, not yet checked: it applies to any parent with as many layers."""
        return SliceSpec(
            name=self.name.value.strip() or "edited",
            widths=tuple(Width.parse(_fraction(step)) for step in self.steps if step),
            skip=tuple(layer for layer, step in enumerate(self.steps) if not step),
        )

    @property
    def slice(self) -> Slice:
        """The slice as set. Raises InputError naming the layer that is at fault."""
        return self.spec.resolve(self.parent.text)

    @property
    def plan(self) -> Plan:
        """The plan of the slice as set. Raises InputError."""
        return make_plan(self.parent, self.slice)

    def yaml(self) -> str:
        """The slice as set, as an entry of a recipe's `slices:` or a slice file."""
        import yaml

        return yaml.safe_dump(_entry(self.spec, self.steps), sort_keys=False)

    # --- setting it ---

    def load(self, ref: str) -> None:
        """Set the sliders to SLICE (a built-in name, a uniform width, a file).

        Raises InputError for a width that is no whole eighth of its layer.
        """
        text = self.parent.text
        chosen = resolve_slice(ref, self.parent)
        steps = [0] * text.num_hidden_layers
        for layer, width in chosen.by_layer(len(steps)).items():
            step, rest = divmod(width * STEPS, text.intermediate_size[layer])
            if rest:
                raise InputError(
                    f"slice {ref}: layer {layer}: width {width} is not a whole number of eighths "
                    "of its FFN"
                )
            steps[layer] = step
        self.name.value = chosen.name
        self.set(dict(enumerate(steps)))

    def set(self, steps: Mapping[int, int]) -> None:
        """Set layers to eighths of their FFN (0 skips), as moving their sliders would."""
        self._quiet = True
        try:
            for layer, step in steps.items():
                self.sliders[layer].value = step
        finally:
            self._quiet = False
        self._show()

    # --- scoring ---

    def score(self) -> pd.DataFrame:
        """Score the slice as set and every one scored before; their results, with the new one last.

        A name that was scored with other widths is refused with an InputError.
        """
        from matformer_lab.results.load import load_results
        from matformer_lab.sweep.recipe import parse_recipe
        from matformer_lab.sweep.run import run_sweep

        chosen = self.slice
        entry = _entry(self.spec, self.steps)
        if self._scored.get(chosen.name, entry) != entry:
            raise InputError(f"{chosen.name}: scored with other widths before; give it a new name")
        entries = list((self._scored | {chosen.name: entry}).values())
        recipe = parse_recipe({**self._recipe, "slices": entries})
        results = load_results(run_sweep(recipe, self.out))
        self._scored[chosen.name] = entry
        columns = ["slice", "effective_params", "task", "metric", "value", "stderr", "n"]
        rows = results[results["primary"] & results["group"].isna()]
        return rows[columns].reset_index(drop=True)

    # --- the widgets ---

    def _build(self, start: str) -> None:
        w, text = self._w, self.parent.text
        self._quiet = False
        self.name = w.Text(value=start, description="name")
        names = [spec.name for spec in published_specs()]
        names += [f"1/{n}" for n in (2, 4, 8)]
        self.presets = w.Dropdown(options=["", *names], value="", description="start from")
        self.presets.observe(self._on_preset, "value")
        self.by_block = w.Checkbox(value=False, description="move whole blocks", indent=False)
        self.sliders = [
            w.IntSlider(
                value=STEPS,
                min=0,
                max=STEPS,
                orientation="vertical",
                continuous_update=False,
                readout_format="d",
                tooltip=f"layer {layer}, {kind}: FFN width in eighths, 0 skips the layer",
                layout=w.Layout(width="26px", height="150px", margin="0"),
            )
            for layer, kind in enumerate(text.layer_types)
        ]
        for layer, slider in enumerate(self.sliders):
            slider.observe(partial(self._on_slider, layer), "value")
        self.report = w.HTML()
        self.run = w.Button(description="score", button_style="primary")
        self.run.on_click(self._on_score)
        self.scores = w.Output()
        self.box = w.VBox(
            [
                w.HBox([self.presets, self.name, self.by_block]),
                w.HBox([self._column(layer) for layer in range(text.num_hidden_layers)]),
                w.HTML(
                    f"<small>above: width in {STEPS}ths of the layer's FFN, 0 skips it; below: the "
                    "layer, <b>bold</b> with full attention</small>"
                ),
                self.report,
                self.run,
                self.scores,
            ]
        )

    def _column(self, layer: int) -> Any:
        full = self.parent.text.layer_types[layer] == _FULL_ATTENTION
        label = f"<b>{layer}</b>" if full else str(layer)
        label = f"<div style='text-align:center;line-height:1.2'>{label}</div>"
        # A gap after each block, as the layers are grouped in the model
        gap = "0 8px 0 0" if full else "0"
        layout = self._w.Layout(margin=gap, padding="10px 0 0", width="26px", overflow="hidden")
        return self._w.VBox([self.sliders[layer], self._w.HTML(label)], layout=layout)

    def _on_preset(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            self.load(change["new"])

    def _on_slider(self, layer: int, change: Mapping[str, Any]) -> None:
        if self._quiet:
            return
        block = next(block for block in self.parent.text.blocks if layer in block)
        self.set(dict.fromkeys(block if self.by_block.value else [layer], change["new"]))

    def _on_score(self, _: Any) -> None:
        from IPython.display import Image, display

        self.run.disabled = True
        try:
            with self.scores:
                self.scores.clear_output()
                try:
                    display(self.score())  # type: ignore[no-untyped-call]
                    display(Image(str(self.out / "frontier.png")))  # type: ignore[no-untyped-call]
                except InputError as error:
                    print(f"error: {shown(str(error))}")
        finally:
            self.run.disabled = False

    def _show(self) -> None:
        try:
            self.report.value = plan_html(self.plan)
        except InputError as error:
            self.report.value = f"<p role='alert' style='color:#B3261E'>{escape(str(error))}</p>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise InputError(
            "the slice editor needs ipywidgets: pip install 'matformer-lab[notebook]'"
        ) from None
    return ipywidgets


def _scoring_recipe(parent: Parent, given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys but for its slices; `tiny` comes with tasks of its own and a short limit."""
    for key in ("parent", "slices"):
        if key in given:
            raise InputError(f"recipe: {key}: is set by the editor; leave it out")
    usual: dict[str, Any] = {}
    if parent.ref == TINY:
        usual = {"tasks": list(TINY_TASKS), "dtype": "float32", "limit": 100}
    return {"parent": str(parent.ref), **usual, **given}


def _fraction(step: int) -> str:
    return "full" if step == STEPS else f"{step}/{STEPS}"


def _entry(spec: SliceSpec, steps: Sequence[int]) -> dict[str, Any]:
    """`spec` as a person would write it: neighbours of one width as one run of layers."""
    runs = [(written(run), step) for run, step in runs_of(steps)]
    entry: dict[str, Any] = {
        "name": spec.name,
        "widths": {run: str(Width.parse(_fraction(step))) for run, step in runs if step},
    }
    skip = [run for run, step in runs if not step]
    return entry | ({"skip": skip} if skip else {})

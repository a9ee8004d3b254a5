"""A slice editor for notebooks: set each layer's width, see the slice's sizes at once, score it.

    editor = ml.SliceEditor("tiny")
    editor            # in a notebook: a slider for every layer
    editor.slice      # the slice that the sliders show
    editor.yaml()     # the same as an entry of a recipe

It needs the extra `matformer-lab[notebook]` (ipywidgets).
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
from matformer_lab.results.files import FRONTIER_PNG
from matformer_lab.slicing.layer_runs import runs_of, written
from matformer_lab.slicing.notation.catalog import published_specs, resolve_slice
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.slicing.slice import Slice

if TYPE_CHECKING:
    import pandas as pd

STEPS: Final = 8
"""Slider steps per FFN. An eighth of E4B's FFN is a multiple of `hidden_size`."""

TINY_TASKS: Final = ("tiny_hellaswag", "tiny_boolq", "tiny_mmlu")
_FULL_ATTENTION: Final = "full_attention"


class SliceEditor:
    """Widgets for setting a slice, with one slider per layer.

    A slider sets the layer's FFN width in eighths; 0 skips the layer. `slice` and `plan` follow the
    sliders. A setting that is not possible is explained below the sliders, and `slice` and `plan`
    raise an `InputError` for it.

    Attributes:
        parent: The parent.
        out: The folder of the sweep that `score` runs.

    Examples:
        >>> import matformer_lab as ml
        >>> editor = ml.SliceEditor("tiny", "e2b")
        >>> editor.set({0: 4, 1: 8})
        >>> editor.slice.widths[:3]
        (32, 64, 32)
    """

    def __init__(
        self,
        parent: Parent | str | Path = TINY,
        start: str = "e4b",
        *,
        recipe: Mapping[str, Any] | None = None,
        out: Path | None = None,
    ) -> None:
        """Create the widgets.

        Args:
            parent: An opened parent, or what `open_parent` accepts.
            start: The slice to start from, as for `load`.
            recipe: Keys of a recipe, for scoring: tasks, dtype, limit, datasets and so on, but not
                parent and slices. For the parent `tiny`, tasks, dtype and limit have defaults.
            out: The folder of the sweep; None: a temporary folder.

        Raises:
            InputError: When the parent or slice cannot be read, `recipe` sets parent or slices, or
                ipywidgets is not installed.
        """
        self.parent = open_parent(parent)
        self.out = Path(mkdtemp(prefix="slice-editor-")) / "sweep" if out is None else Path(out)
        self._recipe = _scoring_recipe(self.parent, recipe or {})
        self._scored: dict[str, dict[str, Any]] = {}
        self._w = _widgets()
        self._build(start)
        self.load(start)

    # --- reading the setting ---

    @property
    def steps(self) -> tuple[int, ...]:
        """Every layer's setting, in eighths of its FFN; 0 for a skipped layer."""
        return tuple(int(slider.value) for slider in self.sliders)

    @property
    def spec(self) -> SliceSpec:
        """The slice as set, not yet checked; it applies to any parent with as many layers."""
        return SliceSpec(
            name=self.name.value.strip() or "edited",
            widths=tuple(Width.parse(_fraction(step)) for step in self.steps if step),
            skip=tuple(layer for layer, step in enumerate(self.steps) if not step),
        )

    @property
    def slice(self) -> Slice:
        """The slice as set.

        Raises:
            InputError: When the slice is not possible; names the layer that is the reason.
        """
        return self.spec.resolve(self.parent.text)

    @property
    def plan(self) -> Plan:
        """The plan of the slice as set.

        Raises:
            InputError: When the slice is not possible.
        """
        return make_plan(self.parent, self.slice)

    def yaml(self) -> str:
        """The slice as set, in YAML: a slice file, or an entry of a recipe's `slices:`."""
        import yaml

        return yaml.safe_dump(_entry(self.spec, self.steps), sort_keys=False)

    # --- changing the setting ---

    def load(self, ref: str) -> None:
        """Set the sliders to a slice.

        Args:
            ref: A built-in name, one width for all layers, or a file, as for `resolve_slice`.

        Raises:
            InputError: When the slice cannot be read, or one of its widths is not a whole number
                of eighths.
        """
        text = self.parent.text
        chosen = resolve_slice(ref, self.parent)
        steps = [0] * text.num_hidden_layers
        for layer, width in chosen.by_layer(len(steps)).items():
            step, rest = divmod(width * STEPS, text.intermediate_size[layer])
            if rest:
                raise InputError(
                    f"slice {ref}: layer {layer}: width {width} is not a whole number of eighths "
                    "of its FFN, so no slider can show it; use write_slices or a recipe"
                )
            steps[layer] = step
        self.name.value = chosen.name
        self.set(dict(enumerate(steps)))

    def set(self, steps: Mapping[int, int]) -> None:
        """Set some of the sliders.

        Args:
            steps: Eighths of the FFN by layer; 0 skips the layer.
        """
        self._quiet = True
        try:
            for layer, step in steps.items():
                self.sliders[layer].value = step
        finally:
            self._quiet = False
        self._show()

    # --- scoring ---

    def score(self) -> pd.DataFrame:
        """Score the slice as set, as the last one of a sweep over all slices scored so far.

        Only the new slice is computed; the scores of the others are in the sweep's folder.

        Returns:
            The scores, one row per slice and task.

        Raises:
            InputError: When the slice is not possible, its name was scored with other widths
                before, or the sweep cannot run.
        """
        from matformer_lab.results.load import load_results
        from matformer_lab.sweep.recipe import parse_recipe
        from matformer_lab.sweep.run import run_sweep

        chosen = self.slice
        entry = _entry(self.spec, self.steps)
        if self._scored.get(chosen.name, entry) != entry:
            raise InputError(
                f"{chosen.name}: was scored with other widths before; give it a new name"
            )
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
                    f"<small>Sliders: FFN width in {STEPS}ths, 0 skips the layer. Below them: the "
                    "layer's index, <b>bold</b> for full attention.</small>"
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
        # A gap after each block of layers that ends with full attention.
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
                    display(Image(str(self.out / FRONTIER_PNG)))  # type: ignore[no-untyped-call]
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
            "the slice editor needs ipywidgets, which is not installed: "
            "pip install 'matformer-lab[notebook]'"
        ) from None
    return ipywidgets


def _scoring_recipe(parent: Parent, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe except slices; for `tiny`, with its own tasks and a short limit."""
    for key in ("parent", "slices"):
        if key in given:
            raise InputError(f"`recipe`: {key}: is set by the editor; leave it out")
    defaults: dict[str, Any] = {}
    if parent.ref == TINY:
        defaults = {
            "tasks": list(TINY_TASKS),
            "apply_chat_template": False,
            "dtype": "float32",
            "limit": 100,
        }
    return {"parent": str(parent.ref), **defaults, **given}


def _fraction(step: int) -> str:
    return "full" if step == STEPS else f"{step}/{STEPS}"


def _entry(spec: SliceSpec, steps: Sequence[int]) -> dict[str, Any]:
    """`spec` as a person would write it: adjacent layers of the same width as one run."""
    runs = [(written(run), step) for run, step in runs_of(steps)]
    entry: dict[str, Any] = {
        "name": spec.name,
        "widths": {run: str(Width.parse(_fraction(step))) for run, step in runs if step},
    }
    skip = [run for run, step in runs if not step]
    return entry | ({"skip": skip} if skip else {})

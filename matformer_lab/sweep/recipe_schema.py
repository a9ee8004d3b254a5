"""The JSON Schema of a recipe, for text editors."""

import json

from matformer_lab.slicing.notation.sampler import SamplerSpec
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.sweep.recipe import Recipe


def recipe_schema() -> str:
    """The JSON Schema of a recipe, as committed in recipes/recipe.schema.json."""
    schema = Recipe.model_json_schema()
    schema["title"] = "matformer-lab sweep recipe"
    schema["description"] = schema["description"].partition("\n")[0]  # without Python examples
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    properties, definitions = schema["properties"], schema["$defs"]
    # Short forms that the models' fields do not show: a task as a bare name, a slice written out.
    properties["tasks"]["items"] = {"anyOf": [{"type": "string"}, properties["tasks"]["items"]]}
    written_out = []
    for model in (SliceSpec, SamplerSpec):
        part = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= part.pop("$defs", {})
        definitions[model.__name__] = part
        written_out.append({"$ref": f"#/$defs/{model.__name__}"})
    properties["slices"]["items"] = {"anyOf": [{"type": "string"}, *written_out]}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(recipe_schema(), end="")

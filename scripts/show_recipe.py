"""Print what a model's recipes give every layer, and how large its programs will be. Nothing is built for it."""

import sys
from pathlib import Path

import click

from hexport.build.program_size import LEFT_OUT, known_sizes, program_sizes
from hexport.config.checks import check_socs
from hexport.config.documents import read_yaml
from hexport.config.schema import nearest
from hexport.config.settings import Config, built_in_models, parse_config
from hexport.errors import HexportError, one_line_errors
from hexport.quantization.recipe_checks import check_sizes, recipe_from
from hexport.quantization.recipe_table import other_table, projection_table, size_table
from hexport.tables import table_console


@click.command(help=__doc__)
@click.argument("name", metavar="MODEL")
@click.option("--config", "file", type=click.Path(path_type=Path), default="config.yaml", show_default=True)
@one_line_errors
def main(name: str, file: Path) -> None:
    config = _config_with(name, file)
    model = config.models[name]
    check_socs(config, str(file))
    for recipe_name in model.recipes:
        if recipe_name not in config.recipes:
            hint = nearest(recipe_name, config.recipes)
            raise HexportError(f"{file}: models.{name}.recipe: unknown recipe {recipe_name!r}{hint}")
    recipes = {recipe_name: recipe_from(config.recipes[recipe_name], recipe_name) for recipe_name in model.recipes}
    sizes, origin = known_sizes(config, model)
    for recipe in recipes.values():
        check_sizes(recipe, recipe.basis.of(sizes))
    console = table_console(sys.stdout)
    for recipe_name, recipe in recipes.items():
        console.print(f"{name}: recipe {recipe_name}, {sizes.n_layers} layers ({origin})", "")
        programs = program_sizes(config, model, recipe_name, sizes)
        for table in (projection_table(recipe, sizes), other_table(recipe), size_table(programs)):
            console.print(table, "")
    console.print(f"Not in the estimates: {LEFT_OUT}.")


def _config_with(name: str, file: Path) -> Config:
    """Return the config, with the built-in model of this name where config.yaml has none."""
    document = read_yaml(file)
    config = parse_config(document, str(file))
    if name in config.models:
        return config
    if name not in built_in_models():
        hint = nearest(name, [*config.models, *built_in_models()])
        raise HexportError(f"{file}: there is no model {name!r}, and none is built in{hint}")
    return parse_config(document | {"models": {name: None}}, str(file))


if __name__ == "__main__":
    main()

"""The typer application: its verbs, registered in the order in which a newcomer needs them."""

from __future__ import annotations

import typer

from factory.cli import (
    adapt,
    agent,
    build,
    devices,
    doctor,
    export,
    farm,
    fit,
    inspect,
    new,
    package,
    predict,
    profile,
    report,
    search,
    table,
    train,
    verify,
)

app = typer.Typer(
    name="factory",
    help="From a chip to the model that fits it: profile, search, train, deploy, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _verb in (
    doctor.doctor,
    new.new,
    profile.profile,
    farm.farm,
    fit.fit,
    adapt.adapt,
    predict.predict,
    inspect.inspect,
    search.search,
    train.train,
    export.export,
    verify.verify,
    package.package,
    report.report,
    build.build,
):
    app.command()(_verb)
    if _verb is doctor.doctor:
        app.add_typer(devices.devices_app)
    if _verb is farm.farm:
        app.add_typer(table.table_app)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    agent.agent
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        from factory.core.provenance import factory_version

        typer.echo(factory_version())
        raise typer.Exit()

"""`factory devices`: the known device profiles; `factory devices add` makes one."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.explain_lines import explained_lines
from factory.cli.output import called, print_json, print_lines, table

devices_app = typer.Typer(
    name="devices",
    help="List the device profiles that are known, the user's own first; add one.",
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@devices_app.callback()
def devices(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Reach every device and ask what it is.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the device profiles that are known, the user's own first; add one."""
    if context.invoked_subcommand is not None:
        return
    from factory.api import devices as verb

    answer = verb(check=check)
    if json:
        print_json(answer)
        return
    header = ["id", "chip", "runtime", "provider", "threads", "precision", "tier"]
    keys = ["id", "chip", "runtime", "execution_provider", "threads", "precision", "tier"]
    if check:
        header, keys = [*header, "reached"], [*keys, "reached"]
    good = [entry for entry in answer["devices"] if not entry.get("error")]
    for entry in good:
        entry["chip"] = called(entry["chip"], entry["transport"] == "simulated")
    print_lines(table(header, [[str(entry.get(key, "")) for key in keys] for entry in good]))
    for entry in answer["devices"]:
        if entry.get("error"):
            print_lines([f"{entry['id']}: {entry['error']}"])


@devices_app.command("add")
def add_device(
    address: Annotated[
        str, typer.Argument(help="http://host:port of a device agent, adb, or adb:SERIAL.")
    ],
    token: Annotated[
        str | None,
        typer.Option(envvar="FACTORY_AGENT_TOKEN", help="The agent's token; kept privately."),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Id of the device (default: its name).")] = None,
    ca: Annotated[str | None, typer.Option(help="PEM file of the certificate to trust.")] = None,
    runner: Annotated[str | None, typer.Option(help="Program to run on the phone.")] = None,
    libraries: Annotated[
        list[str] | None,
        typer.Option("--library", help="File that goes beside the runner on the phone."),
    ] = None,
    threads: Annotated[str, typer.Option(help='Number of threads, or "all".')] = "1",
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32",
    execution_provider: Annotated[
        str, typer.Option("--provider", help="ONNX Runtime execution provider.")
    ] = "CPUExecutionProvider",
    tier: Annotated[str, typer.Option(help="The product tier that the chip stands for.")] = "",
    replace: Annotated[bool, typer.Option(help="Overwrite a profile of that id.")] = False,
    json: options.Json = False,
) -> None:
    """Ask a chip what it is and write its device profile."""
    from factory.api import add_device as verb

    answer = verb(
        address,
        id=id,
        token=token,
        ca=ca,
        runner=runner,
        libraries=tuple(libraries or ()),
        threads=threads,
        precision=precision,
        execution_provider=execution_provider,
        tier=tier,
        replace=replace,
    )
    if json:
        print_json(answer)
        return
    facts = answer["facts"]
    degrees = facts.get("temperature_c", facts.get("battery_c"))
    lines = [
        f"{answer['device']}: {answer['seen']}, {len(facts['cores'])} cores, "
        + (f"{degrees:g} C" if degrees is not None else "temperature unknown"),
        f"profile: {answer['path']}",
    ]
    if answer["token_path"]:
        lines.append(f"token: {answer['token_path']} (readable by you alone)")
    if answer["missing"]:
        lines.append(f"missing: {answer['missing']}")
    print_lines([*lines, f"next: factory profile --device {answer['device']}"])


@devices_app.command()
def explain(
    model: Annotated[str, typer.Argument(help="Path of an ONNX file.")],
    device: options.Device,
    soc: Annotated[
        list[str] | None, typer.Option(help="Also compile for this SoC number; repeatable.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the compiled files (default: the model's).")
    ] = None,
    numerics: Annotated[bool, typer.Option(help="Compare the outputs with the CPU's.")] = True,
    input_shape: options.Shapes = None,
    inputs: options.Values = None,
    json: options.Json = False,
) -> None:
    """Say which nodes an accelerator takes, which it refuses and why, and what to change."""
    from factory.api import explain as verb

    answer = verb(
        model,
        device,
        numerics=numerics,
        socs=soc or (),
        out=out,
        input=input_shape,
        inputs=inputs,
    )
    if json:
        print_json(answer)
        return
    print_lines(explained_lines(answer))

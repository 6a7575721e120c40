"""The gateway's benchmark as a table for people."""

from __future__ import annotations

from typing import Any


def print_table(found: dict[str, Any]) -> None:
    """Print what was found for people."""
    for case in found["cases"]:
        if not case["servers"]:
            continue
        print(f"gateway, {case['viewers']} viewers x {case['rate']:g} frames/s, {found['jobs']} jobs")
        heads = ("ratio", "frames/CPU-s", "KB/viewer", "median", "99 %", "most ms", "Redis", "CPU")
        print(f"  {'':31}" + " ".join(f"{head:>12}" for head in heads))
        best = case["servers"].get("the gateway", {}).get("frames_per_cpu_second")
        for name, server in case["servers"].items():
            if "failed" in server:
                print(f"  {name:31} not measured: {server['failed']}")
                continue
            speed = server["frames_per_cpu_second"]
            ratio = f"{best / speed:.1f}" if best and speed else "-"
            cells = (ratio, f"{speed:,.0f}", f"{server['streaming_kb']:.1f}", server["p50"], server["p99"])
            cells = (*cells, server["max"], server["redis_connections"], f"{server['cpu']:.0%}")
            print(f"  {name:31}" + " ".join(f"{cell:>12}" for cell in cells))
            print("".join(f"      {line}\n" for line in remarks(server, case["viewers"])), end="")
    if "chat" in found:
        print("chat, first token of an OpenAI stream, milliseconds (median, 99 %)")
        for name, spread in found["chat"].items():
            print(
                f"  {name:58} {spread}" if isinstance(spread, str) else f"  {name:58} {spread[0]:8.2f} {spread[1]:8.2f}"
            )


def remarks(server: dict[str, Any], viewers: int) -> list[str]:
    """Return what else is to be said of a server, above all what was wrong."""
    said: list[str] = []
    if server["missing"] or server["doubled"] or server["late"]:
        said.append(f"WRONG: {server['missing']} frames missing, {server['doubled']} doubled, {server['late']} late")
    if server["behind"]:
        said.append(f"does not keep up: {server['behind']} frames behind after some seconds more")
    elif server["ended"] < viewers:
        said.append(f"WRONG: {viewers - server['ended']} viewers were not told the end")
    if server["written_ms"]:
        written = f"{server['written_ms']:.1f} ms on average"
        said.append(f"until an entry is in Redis: {written}; the machine's load: {server['load']:.1f}")
    if "idle_cpu" in server:
        said.append(f"idle: {server['idle_cpu']:.2%} of a core, {server['idle_kb']:.1f} KB a viewer")
    return said + [f"trouble: {one}" for one in server["trouble"]]

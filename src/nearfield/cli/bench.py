"""`nearfield bench ...`: the group of measuring commands."""

HELP = "measure speed on this machine, as a share of what it could do"
COMMANDS = {
    "offline": "nearfield.cli.bench_offline",
    "agents": "nearfield.cli.bench_agents",
    "kernels": "nearfield.cli.bench_kernels",
    "limits": "nearfield.cli.bench_limits",
}

"""`nearfield node ...`: the group of commands of a NEAR inference node."""

HELP = "be a NEAR inference node: keys, signed answers, usage, registry"
COMMANDS = {
    "init": "nearfield.cli.node_init",
    "front": "nearfield.cli.node_front",
    "status": "nearfield.cli.node_status",
    "usage": "nearfield.cli.node_usage",
    "earnings": "nearfield.cli.node_earnings",
    "credit": "nearfield.cli.node_credit",
    "withdraw": "nearfield.cli.node_withdraw",
    "register": "nearfield.cli.node_register",
    "discover": "nearfield.cli.node_discover",
}

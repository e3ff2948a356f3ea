"""Skills: folders with instructions that a model loads when it needs them.

A skill has the open format of Agent Skills (https://agentskills.io): a folder with a `SKILL.md`,
whose head has a name and a description. `folder` reads and checks such a folder, and the ledger
stores its files (`tables`), so every worker has them, and a backup too. Each skill is a tool of
the word `skills` (`tools`), and a folder for programs (`operations.program_folders`).
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands(
            "More",
            "commands",
            ("add", "list", "show", "remove"),
            "skills",
            "Manage instructions that agents load when they need them",
        ),
    ),
    operations="client:Skills",
    agent_tools=(("skills", "tools:skill_tools"),),
    program_folders=(("skills", "operations:program_folders"),),
    tables="tables",
)

"""The tool `notify.send`: a message to the job's own channel while the run goes on."""

from daybook.feature import Feature

FEATURE = Feature(package=__name__, agent_tools=(("notify", "tools:notify_tools"),))

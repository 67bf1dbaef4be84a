from portico.realtime.members cimport Group, channel_of, check_name
from portico.realtime.outgoing cimport Outgoing

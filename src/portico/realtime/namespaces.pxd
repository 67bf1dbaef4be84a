from portico.realtime.members cimport Group, channel_of, encoded
from portico.realtime.outgoing cimport Outgoing

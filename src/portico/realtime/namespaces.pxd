from portico.realtime.members cimport Group, encoded
from portico.realtime.outgoing cimport Outgoing

from portico.realtime.members cimport Member

"""The Multi-Cluster Services API (KEP-1645) in the own cluster: what is exported anywhere can be used here.

    api.py        objects and names of the API, and which version of it the server has
    desired.py    what a merge of exports comes to, as objects
    conditions.py what a ServiceExport is told
    told.py       what other clusters export
    state.py      what is known here, and what has to be written for one Service
    slices.py     backends of an exported Service as those of its derived Service; copying.py: writes them
    follower.py   watches and requests

A Service that is exported in any cluster gets, in every cluster that has the namespace, a ServiceImport and a *derived*
Service, which is global: what agents, tracker and the mesh do for global Services is all that is done for it too.
"""

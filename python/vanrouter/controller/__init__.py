"""
The controller of a site in a Kubernetes namespace: the one that writes. ``docs/kubernetes-design.md`` has what it promises.

    decide   keys       what routers show: leaves of our own CA, credentials of links
             ports      which port of a pod a listener has
             access     where others reach this site: the Service of the link access, and its addresses
             fronts     what stands in front of it and tells sites apart by name: Route, Ingress, HTTPProxy, Gateway
             services   Services of listeners: ours, taken over, given back
             view       what people see of exposed services
             report     the routers' status documents, merged, and as status of resources
    drive    copies     copies of what the namespace has, and writes
             entrance_watch  which of those kinds the cluster serves, and ours of each
             redeeming  tokens in: redemption, renewal
             issuing    tokens out: the issuer, for routers and for the CLI
             run        the loop

Deciding parts get copies of objects, and time as an argument; they give desired objects. Nothing is written that is there already.
"""

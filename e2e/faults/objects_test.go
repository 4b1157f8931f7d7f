package faults

const peopleYAML = `apiVersion: v1
kind: Namespace
metadata:
  name: aibrix-system
---
apiVersion: v1
kind: Namespace
metadata:
  name: team-a
---
apiVersion: v1
kind: Namespace
metadata:
  name: models
  labels: {routesteward.dev/grants: allow}
---
apiVersion: v1
kind: Namespace
metadata:
  name: closed
---
apiVersion: v1
kind: Namespace
metadata:
  name: owned
---
apiVersion: v1
kind: Namespace
metadata:
  name: shared
---
apiVersion: v1
kind: Namespace
metadata:
  name: aibrix-models
---
apiVersion: v1
kind: Namespace
metadata:
  name: wanted
  labels: {routesteward.dev/grants: allow}
---
apiVersion: v1
kind: Namespace
metadata:
  name: welcoming
---
apiVersion: v1
kind: Namespace
metadata:
  name: vetoing
  labels: {routesteward.dev/grants: allow}
---
apiVersion: v1
kind: Namespace
metadata:
  name: revoking
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: tenants
  namespace: aibrix-system
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, create, update, patch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: tenants
  namespace: aibrix-system
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenants}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: tenants}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: tenants
  namespace: team-a
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, create, update, patch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: tenants
  namespace: team-a
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenants}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: tenants}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: owner
  namespace: owned
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: owner
  namespace: owned
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: owner}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: revoked
  namespace: revoking
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: aibrix-system}
  to:
  - {group: "", kind: Service}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: aibrix-eg
  namespace: aibrix-system
spec:
  gatewayClassName: aibrix-eg
  listeners:
  - {name: http, port: 80, protocol: HTTP}
`

// foreignYAML are objects of other people. Nothing may happen to them.
const foreignYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: theirs
  namespace: shared
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: aibrix-system}
  to:
  - {group: "", kind: Service}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: aibrix-system-reserved-referencegrant-in-aibrix-models
  namespace: aibrix-models
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: aibrix-system}
  to:
  - {group: "", kind: Service}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: routesteward-lookalike
  namespace: models
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: elsewhere}
  to:
  - {group: "", kind: Service, name: lookalike}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: theirs
  namespace: team-a
spec:
  gatewayClassName: theirs
  listeners:
  - {name: http, port: 80, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: theirs
  namespace: team-a
spec:
  parentRefs:
  - name: theirs
  rules:
  - backendRefs:
    - {name: theirs, port: 80}
---
apiVersion: v1
kind: Service
metadata:
  name: theirs
  namespace: models
spec:
  ports:
  - {name: http, port: 80}
---
apiVersion: v1
kind: Secret
metadata:
  name: theirs
  namespace: closed
stringData: {key: value}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: theirs
  namespace: closed
spec:
  holderIdentity: somebody
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata:
  name: theirs
webhooks: []
---
apiVersion: v1
kind: Namespace
metadata:
  name: models
  labels: {routesteward.dev/grants: allow}
`
